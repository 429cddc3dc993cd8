// Verify a log with code that nobody of Tapestry has written.
//
// It takes the Merkle tree and the signed notes from golang.org/x/mod, and only
// the formats around them (cosignatures, bundles, proof files) from here:
//
//	verify -log VKEY -witness VKEY ... -quorum N -dir DIR
//	       [-outside VKEY ... -outside-quorum N]
//	       [-proof FILE -entry FILE] [-old CHECKPOINT -consistency FILE]
//	verify -dir BUNDLE -trust POLICY ...   a bundle, over the turns of its log: the
//	       policy of the founding, then that in force after each turn
//	verify -signer VKEY ... -entry FILE     the signatures of one entry
//
// Tiles are never trusted: every file is compared with hashes recomputed from the
// entries. The tile reader of x/mod before 0.40 authenticated only some tiles.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

// witness checks cosignature/v1 lines, which x/mod does not know.
type witness struct {
	name string
	id   uint32
	key  ed25519.PublicKey
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.id }

func (w *witness) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	time := binary.BigEndian.Uint64(sig)
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, text)
	return isKey(sig[8:40]) && ed25519.Verify(w.key, []byte(message), sig[8:])
}

// smallOrder lists the encodings of the points under which one signature fits every
// message: such a key needs no private key. Set the sign bit for the other four.
var smallOrder = map[string]bool{
	"0000000000000000000000000000000000000000000000000000000000000000": true,
	"0100000000000000000000000000000000000000000000000000000000000000": true,
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05": true,
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a": true,
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": true,
}

// isKey says whether 32 bytes, a key or R of a signature, are below 2^255 - 19 and not
// of small order.
func isKey(key []byte) bool {
	y := append([]byte(nil), key...)
	y[31] &= 0x7f
	canonical := y[0] < 0xed || y[31] != 0x7f
	for _, b := range y[1:31] {
		canonical = canonical || b != 0xff
	}
	return canonical && !smallOrder[fmt.Sprintf("%x", y)]
}

// logKey refuses signatures whose R is of small order, as every other key here does.
type logKey struct{ note.Verifier }

func (l logKey) Verify(text, sig []byte) bool {
	return len(sig) == ed25519.SignatureSize && isKey(sig[:32]) && l.Verifier.Verify(text, sig)
}

func newWitness(vkey string) (*witness, error) {
	name, key, err := parseKey(vkey, 0x04)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte(name+"\n\x04"), key...))
	return &witness{name, binary.BigEndian.Uint32(sum[:4]), key}, nil
}

// parseKey takes a verify key of one algorithm apart: name and 32 bytes.
func parseKey(vkey string, algorithm byte) (string, ed25519.PublicKey, error) {
	parts := strings.SplitN(vkey, "+", 3) // base64 has plus signs, too
	if len(parts) != 3 {
		return "", nil, fmt.Errorf("not a verify key: %q", vkey)
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != algorithm || !isKey(key[1:]) {
		return "", nil, fmt.Errorf("not a key for this purpose: %q", vkey)
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	if fmt.Sprintf("%x", sum[:4]) != parts[1] {
		return "", nil, fmt.Errorf("wrong id in %q", vkey)
	}
	return parts[0], key[1:], nil
}

// head is what a checkpoint says.
type head struct {
	size int64
	root tlog.Hash
}

// policy is whom we trust.
type policy struct {
	origin  string
	order   []note.Verifier // the log, then the witnesses as they were named
	quorums []quorum
}

// quorum is how many of some witnesses must have cosigned.
type quorum struct {
	witnesses []string
	number    int
	former    bool // they were witnesses before a turn, and may be witnesses still
}

func newPolicy(log string, quorums ...quorum) (*policy, error) {
	signer, err := note.NewVerifier(log)
	if err != nil {
		return nil, err
	}
	if _, _, err := parseKey(log, 0x01); err != nil {
		return nil, err
	}
	known, named := []note.Verifier{logKey{signer}}, map[string]bool{}
	for _, q := range quorums {
		for _, vkey := range q.witnesses {
			if q.former && named[vkey] {
				continue
			}
			named[vkey] = true
			w, err := newWitness(vkey)
			if err != nil {
				return nil, err
			}
			known = append(known, w)
		}
	}
	return &policy{signer.Name(), known, quorums}, nil
}

// isReached says whether enough of the witnesses have signed, each line by its id.
func (q quorum) isReached(signed map[string]bool) bool {
	cosigned := 0
	for _, vkey := range q.witnesses {
		if signed[strings.Join(strings.SplitN(vkey, "+", 3)[:2], "+")] {
			cosigned++
		}
	}
	return cosigned >= q.number
}

// checkSpelling demands the line of the log, then lines of witnesses in their order,
// and no other byte. A note may hold more by its format, ours does not.
func (p *policy) checkSpelling(msg []byte, opened *note.Note) error {
	spelled, next := opened.Text+"\n", 0
	for at, s := range opened.Sigs {
		for next < len(p.order) && (p.order[next].Name() != s.Name || p.order[next].KeyHash() != s.Hash) {
			next++
		}
		if next == len(p.order) || (at == 0 && next != 0) {
			return fmt.Errorf("line of %s is not in its place", s.Name)
		}
		next++
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil {
			return err
		}
		spelled += "\u2014 " + s.Name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
	}
	if spelled != string(msg) {
		return fmt.Errorf("lines that are of none of these keys")
	}
	return nil
}

// open checks signatures, spelling and quorum, then reads the three lines.
func (p *policy) open(msg []byte) (head, error) {
	opened, err := note.Open(msg, note.VerifierList(p.order...))
	if err != nil {
		return head{}, err
	}
	if err := p.checkSpelling(msg, opened); err != nil {
		return head{}, err
	}
	signed := map[string]bool{}
	for _, s := range opened.Sigs {
		signed[fmt.Sprintf("%s+%08x", s.Name, s.Hash)] = true
	}
	if !signed[fmt.Sprintf("%s+%08x", p.origin, p.order[0].KeyHash())] {
		return head{}, fmt.Errorf("not signed by the log")
	}
	for _, q := range p.quorums {
		if !q.isReached(signed) {
			return head{}, fmt.Errorf("under %d of %d cosignatures", q.number, len(q.witnesses))
		}
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != p.origin || lines[3] != "" {
		return head{}, fmt.Errorf("not a checkpoint of %s", p.origin)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || strconv.FormatInt(size, 10) != lines[1] {
		return head{}, fmt.Errorf("size %q", lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	return head{size, root}, err
}

// hashes are all stored hashes of a tree, recomputed from its entries.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(h)) {
			return nil, fmt.Errorf("no hash %d", index)
		}
		out[i] = h[index]
	}
	return out, nil
}

// tilePath is the path of C2SP tlog-tiles; that of x/mod names the height, too.
func tilePath(t tlog.Tile) string {
	return "tile/" + strings.TrimPrefix(t.Path(), "tile/8/")
}

func bundlePath(t tlog.Tile) string {
	return "tile/entries/" + strings.TrimPrefix(t.Path(), "tile/8/0/")
}

// layout lists the tiles of a size, without the partial ones on the way to it.
func layout(size int64) []tlog.Tile {
	var out []tlog.Tile
	for _, tile := range tlog.NewTiles(tileHeight, 0, size) {
		last := len(out) - 1
		if last >= 0 && out[last].L == tile.L && out[last].N == tile.N {
			out[last] = tile
		} else {
			out = append(out, tile)
		}
	}
	return out
}

func readBundle(data []byte) ([][]byte, error) {
	var entries [][]byte
	for len(data) > 0 {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("bundle is cut short")
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		entries = append(entries, data[2:end])
		data = data[end:]
	}
	return entries, nil
}

// rebuild hashes every entry and writes down which files the log consists of.
func rebuild(dir string, size int64) (hashes, map[string][]byte, [][]byte, error) {
	var stored hashes
	var all [][]byte
	files := map[string][]byte{}
	tiles := layout(size)
	next := int64(0)
	for _, tile := range tiles {
		if tile.L != 0 {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, bundlePath(tile)))
		if err != nil {
			return nil, nil, nil, err
		}
		files[bundlePath(tile)] = data
		entries, err := readBundle(data)
		if err != nil || len(entries) != tile.W {
			return nil, nil, nil, fmt.Errorf("%s: %d entries, %v", bundlePath(tile), len(entries), err)
		}
		all = append(all, entries...)
		for _, entry := range entries {
			more, err := tlog.StoredHashes(next, entry, stored)
			if err != nil {
				return nil, nil, nil, err
			}
			stored = append(stored, more...)
			next++
		}
	}
	for _, tile := range tiles {
		data, err := tlog.ReadTileData(tile, stored)
		if err != nil {
			return nil, nil, nil, err
		}
		files[tilePath(tile)] = data
	}
	return stored, files, all, nil
}

// superseded returns what must be in a partial file of an older checkpoint.
func superseded(path string, files map[string][]byte) ([]byte, bool) {
	base, width, partial := strings.Cut(path, ".p/")
	w, err := strconv.Atoi(width)
	if !partial || err != nil {
		return nil, false
	}
	for known, data := range files {
		if strings.Split(known, ".p/")[0] != base {
			continue
		}
		if !strings.HasPrefix(path, "tile/entries/") {
			return data[:min(len(data), w*tlog.HashSize)], true
		}
		end := 0
		for ; w > 0 && end < len(data); w-- {
			end += 2 + int(binary.BigEndian.Uint16(data[end:]))
		}
		return data[:end], true
	}
	return nil, false
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func checkFiles(dir string, files map[string][]byte) error {
	for path := range files {
		if _, err := os.Stat(filepath.Join(dir, path)); err != nil {
			return err
		}
	}
	return filepath.WalkDir(filepath.Join(dir, "tile"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		want, ok := files[name]
		if !ok {
			want, ok = superseded(name, files)
		}
		data, err := os.ReadFile(path)
		if err != nil || !ok || !bytes.Equal(data, want) {
			return fmt.Errorf("%s differs from the entries or does not belong", name)
		}
		return nil
	})
}

func readHashes(lines []string) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, line := range lines {
		h, err := tlog.ParseHash(line)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

// checkProof verifies a tlog-proof file for the bytes of an entry.
func (p *policy) checkProof(data, entry []byte) error {
	top, checkpoint, ok := bytes.Cut(data, []byte("\n\n"))
	lines := strings.Split(string(top), "\n")
	if !ok || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return fmt.Errorf("not a tlog-proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return err
	}
	proof, err := readHashes(lines[2:])
	if err != nil {
		return err
	}
	at, err := p.open(checkpoint)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, at.size, at.root, index, tlog.RecordHash(entry))
}

// checkConsistency verifies that an older checkpoint is of the same log.
func (p *policy) checkConsistency(old, data []byte, now head) error {
	before, err := p.open(old)
	if err != nil {
		return err
	}
	proof, err := readHashes(strings.Fields(string(data)))
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, now.size, now.root, before.size, before.root)
}

// checkLog recomputes a log from its entries, which it returns with their hashes.
func checkLog(dir string, now head) (hashes, [][]byte, error) {
	stored, files, entries, err := rebuild(dir, now.size)
	if err != nil {
		return nil, nil, err
	}
	if err := checkRoot(stored, now); err != nil {
		return nil, nil, err
	}
	return stored, entries, checkFiles(dir, files)
}

// checkRoot compares a checkpoint with the first entries of a log.
func checkRoot(stored hashes, at head) error {
	root, err := tlog.TreeHash(at.size, stored)
	if err != nil || root != at.root {
		return fmt.Errorf("entries are not under the root of size %d: %v", at.size, err)
	}
	return nil
}

func (p *policy) verify(dir, proof, entry, old, consistency string) error {
	checkpoint, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return err
	}
	now, err := p.open(checkpoint)
	if err != nil {
		return err
	}
	if _, _, err := checkLog(dir, now); err != nil {
		return err
	}
	if proof != "" {
		if err := withFiles(proof, entry, p.checkProof); err != nil {
			return err
		}
	}
	if old != "" {
		return withFiles(old, consistency, func(a, b []byte) error {
			return p.checkConsistency(a, b, now)
		})
	}
	return nil
}

const payloadType = "application/vnd.tapestry.event.v1+json"

// envelope is a DSSE envelope, with its fields in order of name.
type envelope struct {
	Payload     string      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// print gives the one spelling of a value: sorted keys, no space.
func print(value any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// checkEntry verifies that all signatures of an entry are by the given keys, one each.
func checkEntry(entry []byte, signers []string) error {
	var found envelope
	if err := json.Unmarshal(entry, &found); err != nil {
		return err
	}
	if !bytes.Equal(print(found), entry) || found.PayloadType != payloadType {
		return fmt.Errorf("not an entry in its one spelling")
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(found.Payload)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var event map[string]any
	if err := decoder.Decode(&event); err != nil {
		return err
	}
	if !bytes.Equal(print(event), payload) {
		return fmt.Errorf("not an event in its one spelling")
	}
	if len(signers) == 0 || len(found.Signatures) != len(signers) {
		return fmt.Errorf("%d signatures by %d keys", len(found.Signatures), len(signers))
	}
	signed := fmt.Sprintf("DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
	for i, vkey := range signers {
		_, key, err := parseKey(vkey, 0x01)
		if err != nil {
			return err
		}
		sig, err := base64.StdEncoding.Strict().DecodeString(found.Signatures[i].Sig)
		id := strings.Join(strings.SplitN(vkey, "+", 3)[:2], "+")
		if err != nil || found.Signatures[i].KeyID != id || len(sig) != 64 ||
			!isKey(sig[:32]) || !ed25519.Verify(key, []byte(signed), sig) {
			return fmt.Errorf("no signature by %s", id)
		}
	}
	return nil
}

func withFiles(a, b string, check func(a, b []byte) error) error {
	first, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	second, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	return check(first, second)
}

func main() {
	var members, outside quorum
	var signers, policies []string
	list := func(name, help string, to *[]string) {
		flag.Func(name, help, func(vkey string) error {
			*to = append(*to, vkey)
			return nil
		})
	}
	list("witness", "verify key of a witness", &members.witnesses)
	list("outside", "verify key of a witness that is no member", &outside.witnesses)
	list("trust", "trust policy of the founding, then that after each turn", &policies)
	list("signer", "verify key of a signer of the entry, in order of key id", &signers)
	log := flag.String("log", "", "verify key of the log")
	flag.IntVar(&members.number, "quorum", 0, "cosignatures needed")
	flag.IntVar(&outside.number, "outside-quorum", 0, "cosignatures needed of these")
	dir := flag.String("dir", ".", "folder with checkpoint and tile/")
	proof := flag.String("proof", "", "tlog-proof to check")
	entry := flag.String("entry", "", "entry that it is of")
	old := flag.String("old", "", "older checkpoint")
	consistency := flag.String("consistency", "", "hashes from the older one to this")
	flag.Parse()

	var err error
	if signers != nil {
		err = withFiles(*entry, *entry, func(data, _ []byte) error {
			return checkEntry(data, signers)
		})
	} else if policies != nil {
		err = follow(*dir, policies)
	} else if p, bad := newPolicy(*log, members, outside); bad != nil {
		err = bad
	} else {
		err = p.verify(*dir, *proof, *entry, *old, *consistency)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("holds")
}
