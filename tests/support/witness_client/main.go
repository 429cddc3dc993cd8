// A client of a witness, written from c2sp.org/tlog-witness and golang.org/x/mod alone.
//
// It keeps a log of its own in memory, asks a witness for cosignatures over it, and
// checks each reply against the specification. It prints one line for each thing that
// it checked, and ends with status 1 at the first that is not as specified.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// hashes is the storage of a tree, as tlog.HashReader.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		found[i] = h[index]
	}
	return found, nil
}

// tree is a log of entries "<salt> <n>"; two salts from some entry on are a fork.
type tree struct{ stored hashes }

func grow(size, forked int64) *tree {
	t := new(tree)
	for n := int64(0); n < size; n++ {
		salt := "a"
		if n >= forked {
			salt = "b"
		}
		more, err := tlog.StoredHashes(n, []byte(fmt.Sprint(salt, " ", n)), t.stored)
		must(err)
		t.stored = append(t.stored, more...)
	}
	return t
}

func (t *tree) root(size int64) tlog.Hash {
	if size == 0 {
		return sha256.Sum256(nil)
	}
	root, err := tlog.TreeHash(size, t.stored)
	must(err)
	return root
}

func (t *tree) proof(old, size int64) []tlog.Hash {
	if old == 0 || old == size {
		return nil
	}
	proof, err := tlog.ProveTree(size, old, t.stored)
	must(err)
	return proof
}

func checkpoint(origin string, size int64, root tlog.Hash) string {
	hash := base64.StdEncoding.EncodeToString(root[:])
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, hash)
}

func request(old int64, proof []tlog.Hash, signed []byte) []byte {
	var body bytes.Buffer
	fmt.Fprintf(&body, "old %d\n", old)
	for _, hash := range proof {
		fmt.Fprintln(&body, base64.StdEncoding.EncodeToString(hash[:]))
	}
	body.WriteString("\n")
	body.Write(signed)
	return body.Bytes()
}

// cosigner verifies cosignature/v1: a note.Verifier of key type 0x04.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func newCosigner(vkey string) *cosigner {
	parts := strings.SplitN(vkey, "+", 3)
	hash, err := strconv.ParseUint(parts[1], 16, 32)
	must(err)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	must(err)
	id := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	if key[0] != 0x04 || binary.BigEndian.Uint32(id[:4]) != uint32(hash) {
		fail("the witness's key is no cosignature key: %s", vkey)
	}
	return &cosigner{parts[0], uint32(hash), key[1:]}
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }
func (c *cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 72 {
		return false
	}
	at := binary.BigEndian.Uint64(sig[:8])
	if age := time.Now().Unix() - int64(at); age < -60 || age > 60 {
		return false
	}
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", at, msg)
	return ed25519.Verify(c.key, []byte(signed), sig[8:])
}

type client struct {
	url     string
	witness *cosigner
}

func (c client) post(body []byte) (int, string, []byte) {
	reply, err := http.Post(c.url+"/add-checkpoint", "", bytes.NewReader(body))
	must(err)
	defer reply.Body.Close()
	found, err := io.ReadAll(reply.Body)
	must(err)
	return reply.StatusCode, reply.Header.Get("Content-Type"), found
}

// accepts wants a cosignature over exactly the checkpoint that was sent.
func (c client) accepts(what string, body, signed []byte) {
	status, _, lines := c.post(body)
	if status != 200 {
		fail("%s: status %d %q", what, status, lines)
	}
	if !bytes.HasPrefix(lines, []byte("— ")) || !bytes.HasSuffix(lines, []byte("\n")) {
		fail("%s: no signature line: %q", what, lines)
	}
	c.opens(what, append(append([]byte{}, signed...), lines...))
	fmt.Println("ok", what)
}

// opens wants a note with a cosignature that holds.
func (c client) opens(what string, cosigned []byte) *note.Note {
	opened, err := note.Open(cosigned, note.VerifierList(c.witness))
	if err != nil || len(opened.Sigs) != 1 {
		fail("%s: %v", what, err)
	}
	return opened
}

func (c client) refuses(what string, body []byte, want int) {
	status, content, found := c.post(body)
	if status != want {
		fail("%s: status %d %q, want %d", what, status, found, want)
	}
	if content == "text/x.tlog.size" {
		fail("%s: a size, without a conflict: %q", what, found)
	}
	fmt.Println("ok", what)
}

func (c client) conflicts(what string, body []byte, size int64) {
	status, content, found := c.post(body)
	if status != 409 || content != "text/x.tlog.size" ||
		string(found) != fmt.Sprintf("%d\n", size) {
		fail("%s: %d %s %q, want 409 and %d", what, status, content, found, size)
	}
	fmt.Println("ok", what)
}

func main() {
	url := flag.String("url", "", "the witness's prefix")
	vkey := flag.String("witness", "", "the witness's verify key")
	flag.Parse()
	secret, err := io.ReadAll(os.Stdin) // the log's signing key
	must(err)
	signer, err := note.NewSigner(strings.TrimSpace(string(secret)))
	must(err)
	c := client{*url, newCosigner(*vkey)}

	sign := func(signer note.Signer, origin string, size int64, root tlog.Hash) []byte {
		signed, err := note.Sign(&note.Note{Text: checkpoint(origin, size, root)}, signer)
		must(err)
		return signed
	}
	origin := signer.Name()
	log, fork := grow(600, 600), grow(600, 3)
	of := func(t *tree, size int64) []byte {
		return sign(signer, origin, size, t.root(size))
	}

	known := int64(0)
	for _, size := range []int64{0, 1, 2, 3, 7, 8, 255, 256, 257, 511, 512} {
		signed := of(log, size)
		body := request(known, log.proof(known, size), signed)
		c.accepts(fmt.Sprint("from ", known, " to ", size), body, signed)
		known = size
	}
	same := of(log, known)
	c.accepts("the same again", request(known, nil, same), same)

	next := of(log, 600)
	c.conflicts("from nothing", request(0, nil, next), known)
	c.conflicts("from less", request(511, log.proof(511, 600), next), known)
	c.conflicts("from more", request(599, log.proof(599, 600), next), known)
	c.conflicts("less", request(256, nil, of(log, 256)), known)
	c.refuses("old above size", request(513, nil, same), 400)
	c.refuses("a fork of the same size", request(known, nil, of(fork, known)), 422)
	c.refuses("a fork", request(known, fork.proof(known, 600), of(fork, 600)), 422)
	c.refuses("no proof", request(known, nil, next), 422)
	proof := log.proof(known, 600)
	c.refuses("half a proof", request(known, proof[1:], next), 422)
	c.refuses("more than a proof", request(known, append(proof, proof[0]), next), 422)
	c.refuses("a proof of nothing", request(known, proof, same), 422)

	skey, _, err := note.GenerateKey(nil, "other.example/log")
	must(err)
	other, err := note.NewSigner(skey)
	must(err)
	stranger := sign(other, "other.example/log", 600, log.root(600))
	c.refuses("another log", request(known, proof, stranger), 404)
	unsigned := sign(other, origin, 600, log.root(600))
	c.refuses("signed by another", request(known, proof, unsigned), 403)
	broken := bytes.Replace(next, []byte("\n600\n"), []byte("\n601\n"), 1)
	c.refuses("a bad signature", request(known, proof, broken), 403)
	c.refuses("no checkpoint", request(known, proof, []byte("x")), 400)
	c.refuses("no empty line", bytes.Replace(
		request(known, proof, next), []byte("\n\n"), []byte("\n"), 1), 400)
	c.refuses("64 hashes", request(known, make([]tlog.Hash, 64), next), 400)
	c.refuses("no request", nil, 400)

	both, err := note.Sign(&note.Note{Text: checkpoint(origin, 600, log.root(600))},
		signer, other) // signatures of unknown keys are ignored
	must(err)
	c.accepts("with another's signature", request(known, proof, both), both)

	name := fmt.Sprintf("%x", sha256.Sum256([]byte(origin)))
	reply, err := http.Get(*url + "/" + name + "/checkpoint")
	must(err)
	defer reply.Body.Close()
	newest, err := io.ReadAll(reply.Body)
	must(err)
	if c.opens("the newest", newest).Text != checkpoint(origin, 600, log.root(600)) {
		fail("the newest is %q", newest)
	}
	fmt.Println("ok the newest")
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, values ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}
