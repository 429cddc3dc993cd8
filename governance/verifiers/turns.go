// Follow a log over the turns of its witnesses and its coordinator, in a bundle.
//
// Whose cosignatures count after a turn follows from votes in the log, which nothing here
// counts: the policies are given. What is checked is that a quorum of each policy cosigned
// the step to the next, and that entries before that step name the keys of the next.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// trust is what a trust policy says.
type trust struct {
	text    string
	keys    []string // the log's, then those of the witnesses
	quorums []quorum // of members, and of outside witnesses
}

var trustText = regexp.MustCompile(`^(log ([!-~]+)\n(?:witness [!-~]+ [!-~]+(?: [!-~]+)?\n)+)` +
	`group members [0-9]+((?: [!-~]+)+)\n(?:group outside ([1-9][0-9]{0,3}) )?`)

// readTrust reads a policy in the one spelling that a federation gives it: its log, the
// members' witnesses, of whom a safe quorum must have cosigned, and outside witnesses.
func readTrust(file string) (*trust, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	found := trustText.FindStringSubmatch(string(data))
	if found == nil {
		return nil, fmt.Errorf("%s is no trust policy as it is published", file)
	}
	keys, names := []string{found[2]}, []string{}
	for _, line := range strings.Split(strings.TrimSuffix(found[1], "\n"), "\n")[1:] {
		words := strings.Split(line, " ")
		names, keys = append(names, words[1]), append(keys, words[2])
	}
	members := min(strings.Count(found[3], " "), len(names))
	safe, top := (members+(members-1)/3)/2+1, "members"
	groups := fmt.Sprintf("group members %d %s\n", safe, strings.Join(names[:members], " "))
	outside, _ := strconv.Atoi(found[4]) // 0 without this group
	if outside > 0 {
		others := strings.Join(names[members:], " ")
		groups += fmt.Sprintf("group outside %d %s\ngroup all 2 members outside\n", outside, others)
		top = "all"
	}
	if found[1]+groups+"quorum "+top+"\n" != string(data) {
		return nil, fmt.Errorf("%s has not the groups and quorums of a federation", file)
	}
	quorums := []quorum{
		{witnesses: keys[1 : members+1], number: safe},
		{witnesses: keys[members+1:], number: outside},
	}
	return &trust{string(data), keys, quorums}, checkKeys(keys)
}

// checkKeys demands keys of the right kind, none of them twice under whatever name.
func checkKeys(keys []string) error {
	known := map[string]bool{}
	for i, vkey := range keys {
		_, key, err := parseKey(vkey, []byte{0x01, 0x04}[min(i, 1)])
		if err != nil {
			return err
		}
		if known[string(key)] {
			return fmt.Errorf("the key of %s is in the trust policy twice", vkey)
		}
		known[string(key)] = true
	}
	return nil
}

// after says whom a checkpoint needs: the log and a quorum of this policy, and a quorum
// of the witnesses of the policy that counted before.
func (t *trust) after(before *trust) (*policy, error) {
	quorums := append([]quorum{}, t.quorums...)
	for _, q := range before.quorums {
		q.former = true
		quorums = append(quorums, q)
	}
	return newPolicy(t.keys[0], quorums...)
}

// readChain reads the policies that counted, the oldest first, which the bundle has too.
func readChain(dir string, files []string) ([]*trust, error) {
	own, err := os.ReadFile(filepath.Join(dir, "trust-policy.txt"))
	if err != nil {
		return nil, err
	}
	var chain []*trust
	origin := func(t *trust) string { return strings.Split(t.keys[0], "+")[0] }
	for i, file := range files {
		t, err := readTrust(file)
		if err != nil {
			return nil, err
		}
		if chain = append(chain, t); origin(t) != origin(chain[0]) {
			return nil, fmt.Errorf("%s is of another log", file)
		}
		if i > 0 && t.text == chain[i-1].text {
			return nil, fmt.Errorf("%s is the policy before it", file)
		}
	}
	if string(own) != chain[0].text {
		return nil, fmt.Errorf("%s is not the bundle's trust-policy.txt", files[0])
	}
	return chain, nil
}

// turnFiles names the turns of a bundle, the oldest first.
func turnFiles(dir string) ([]string, error) {
	files, err := os.ReadDir(filepath.Join(dir, "turns"))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var names []string
	for _, file := range files {
		names = append(names, "turns/"+file.Name())
	}
	sort.SliceStable(names, func(i, j int) bool { return len(names[i]) < len(names[j]) })
	return names, nil
}

// follow steps over the turns of a bundle to its newest checkpoint. There is a policy
// after each, and one more where the newest checkpoint is a turn that has no file.
func follow(dir string, files []string) error {
	chain, err := readChain(dir, files)
	if err != nil {
		return err
	}
	turns, err := turnFiles(dir)
	if more := len(chain) - len(turns) - 1; err != nil || more != 0 && more != 1 {
		return fmt.Errorf("%d policies with %d turns: %v", len(chain), len(turns), err)
	}
	heads, err := openTurns(dir, turns, chain)
	if err != nil {
		return err
	}
	stored, entries, err := checkLog(dir, heads[len(turns)])
	if err != nil {
		return err
	}
	named, err := firstNamed(entries)
	if err != nil {
		return err
	}
	for _, turn := range heads {
		if err := checkRoot(stored, turn); err != nil {
			return err
		}
	}
	for i, t := range chain[1:] {
		for _, vkey := range t.keys {
			if index, ok := named[vkey]; !ok || index >= heads[i].size {
				return fmt.Errorf("no entry of the first %d names %s", heads[i].size, vkey)
			}
		}
	}
	return nil
}

// openTurns opens the turns and the newest checkpoint by the policies before and after.
func openTurns(dir string, turns []string, chain []*trust) ([]head, error) {
	var heads []head
	before, last := chain[0], ""
	for i, name := range append(turns, "checkpoint") {
		note, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		// The newest checkpoint may be that of the last turn, with lines of both sets.
		if text, _, _ := strings.Cut(string(note), "\n\n"); text != last {
			before, last = chain[i], text
		} else if len(chain) > len(turns)+1 {
			return nil, fmt.Errorf("%s: two turns of one size", name)
		}
		p, err := chain[min(i+1, len(chain)-1)].after(before)
		if err != nil {
			return nil, err
		}
		at, err := p.open(note)
		if err != nil {
			return nil, fmt.Errorf("%s: %v", name, err)
		}
		if i < len(turns) && name != fmt.Sprintf("turns/%d", at.size) {
			return nil, fmt.Errorf("%s is a checkpoint of size %d", name, at.size)
		}
		heads = append(heads, at)
	}
	return heads, nil
}

var quotedKey = regexp.MustCompile(`"([^"\\+]+\+[0-9a-f]{8}\+[0-9A-Za-z+/]{44})"`)

// firstNamed returns in which entry each verify key stands first.
func firstNamed(entries [][]byte) (map[string]int64, error) {
	named := map[string]int64{}
	for i, entry := range entries {
		var found envelope
		if err := json.Unmarshal(entry, &found); err != nil {
			return nil, err
		}
		payload, err := base64.StdEncoding.Strict().DecodeString(found.Payload)
		if err != nil {
			return nil, err
		}
		for _, match := range quotedKey.FindAllSubmatch(payload, -1) {
			if _, ok := named[string(match[1])]; !ok {
				named[string(match[1])] = int64(i)
			}
		}
	}
	return named, nil
}
