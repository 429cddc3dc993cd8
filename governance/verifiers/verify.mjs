// Verify a log with nothing but WebCrypto, as a page in a reader's browser would.
//
//   node verify.mjs DIR QUORUM LOG-VKEY WITNESS-VKEY...   the whole log
//   node verify.mjs PROOF ENTRY QUORUM LOG-VKEY WITNESS-VKEY...   one entry
//   ... WITNESS-VKEY... outside QUORUM WITNESS-VKEY...   with witnesses that are no members
//   ... WITNESS-VKEY... former QUORUM WITNESS-VKEY...   a turn: all witnesses before it
//   node verify.mjs ENTRY SIGNER-VKEY...   the signatures of one entry, by key id
//
// Only the last section reads files; everything above runs in a browser as it is.

const encoder = new TextEncoder();

function concat(...parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));
}

const leafHash = (entry) => sha256([0], entry);
const nodeHash = (left, right) => sha256([1], left, right);

function equal(a, b) {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

function base64(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  demand(btoa(String.fromCharCode(...bytes)) === text, `base64 of ${text}`);
  return bytes;
}

function decimal(text) {
  demand(/^(0|[1-9][0-9]{0,15})$/.test(text), `decimal ${text}`);
  return Number(text);
}

function demand(holds, what) {
  if (!holds) throw new Error(`does not hold: ${what}`);
}

// keys and notes

// Encodings of points under which one signature fits every message, without the sign
// bit: such a key needs no private key.
const SMALL_ORDER = new Set([
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]);

const hexOf = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");

function isKey(key) {
  const y = Uint8Array.from(key);
  y[31] &= 0x7f;
  const canonical = y[0] < 0xed || y[31] !== 0x7f || y.slice(1, 31).some((byte) => byte !== 0xff);
  return canonical && !SMALL_ORDER.has(hexOf(y));
}

async function parseKey(vkey) {
  const [name, id, ...rest] = vkey.split("+");
  const material = base64(rest.join("+"));
  const sum = (await sha256(encoder.encode(`${name}\n`), material)).slice(0, 4);
  demand(material.length === 33 && hexOf(sum) === id && isKey(material.slice(1)), `key ${vkey}`);
  const key = await crypto.subtle.importKey("raw", material.slice(1), "Ed25519", false, ["verify"]);
  return { name, id: sum, type: material[0], key };
}

async function verifySignature(key, text, blob) {
  const r = key.type === 1 ? blob.slice(0, 32) : blob.slice(8, 40);
  if (r.length !== 32 || !isKey(r)) return false; // R is not of small order either
  if (key.type === 1) {
    return crypto.subtle.verify("Ed25519", key.key, blob, encoder.encode(text));
  }
  if (key.type !== 4 || blob.length !== 72) return false;
  const time = new DataView(blob.buffer, blob.byteOffset).getBigUint64(0);
  const message = encoder.encode(`cosignature/v1\ntime ${time}\n${text}`);
  return crypto.subtle.verify("Ed25519", key.key, blob.slice(8), message);
}

// groups are witnesses, and how many of these must have cosigned
async function openCheckpoint(note, log, groups) {
  const gap = note.lastIndexOf("\n\n");
  demand(gap > 0 && note.endsWith("\n"), "shape of the note");
  const text = note.slice(0, gap + 1);
  const signers = new Set();
  const order = [...new Set([log, ...groups.flatMap((group) => group.witnesses)])];
  let next = 0; // the log's line comes first, then those of witnesses as they were named
  for (const line of note.slice(gap + 2, -1).split("\n")) {
    const match = /^— ([^ +]+) ([A-Za-z0-9+/=]+)$/.exec(line);
    demand(match, `signature line ${line}`);
    const blob = base64(match[2]);
    const at = order.findIndex((key) => key.name === match[1] && equal(key.id, blob.slice(0, 4)));
    demand(at >= next && (next > 0 || at === 0), `place of the line of ${match[1]}`);
    demand(await verifySignature(order[at], text, blob.slice(4)), `signature of ${match[1]}`);
    signers.add(order[at]);
    next = at + 1;
  }
  demand(signers.has(log), "signature of the log");
  for (const { witnesses, quorum } of groups) {
    const cosigned = witnesses.filter((key) => signers.has(key)).length;
    demand(cosigned >= quorum, `quorum with ${cosigned} cosignatures`);
  }
  const [origin, size, root, ...rest] = text.split("\n");
  demand(origin === log.name && rest.join() === "" && rest.length === 1, "checkpoint");
  return { size: decimal(size), root: base64(root) };
}

// trees

async function treeRoot(leaves) {
  if (leaves.length === 0) return sha256();
  if (leaves.length === 1) return leaves[0];
  let split = 1;
  while (split * 2 < leaves.length) split *= 2;
  return nodeHash(await treeRoot(leaves.slice(0, split)), await treeRoot(leaves.slice(split)));
}

async function rootFromProof(hashes, index, size, leaf) {
  if (size === 1) {
    demand(hashes.length === 0, "length of the proof");
    return leaf;
  }
  demand(hashes.length > 0, "length of the proof");
  let split = 1;
  while (split * 2 < size) split *= 2;
  const [below, last] = [hashes.slice(0, -1), hashes[hashes.length - 1]];
  return index < split
    ? nodeHash(await rootFromProof(below, index, split, leaf), last)
    : nodeHash(last, await rootFromProof(below, index - split, size - split, leaf));
}

function splitBundle(data) {
  const entries = [];
  for (let at = 0; at < data.length; ) {
    demand(at + 2 <= data.length, "length of an entry");
    const end = at + 2 + data[at] * 256 + data[at + 1];
    demand(end <= data.length, "end of an entry");
    entries.push(data.slice(at + 2, end));
    at = end;
  }
  return entries;
}

function bundlePath(index, width) {
  const digits = String(index).padStart(Math.ceil(String(index).length / 3) * 3, "0");
  const groups = digits.match(/.../g).map((group, at, all) => (at < all.length - 1 ? `x${group}` : group));
  return `tile/entries/${groups.join("/")}${width === 256 ? "" : `.p/${width}`}`;
}

async function verifyLog(read, trust) {
  const checkpoint = await openCheckpoint(await read("checkpoint", true), ...trust);
  const leaves = [];
  for (let at = 0; at < checkpoint.size; at += 256) {
    const width = Math.min(256, checkpoint.size - at);
    const entries = splitBundle(await read(bundlePath(at / 256, width)));
    demand(entries.length === width, `${width} entries from ${at} on`);
    leaves.push(...(await Promise.all(entries.map(leafHash))));
  }
  demand(equal(await treeRoot(leaves), checkpoint.root), "root over the entries");
}

async function verifyProof(proof, entry, trust) {
  const gap = proof.indexOf("\n\n");
  const [header, index, ...hashes] = proof.slice(0, gap).split("\n");
  demand(gap > 0 && header === "c2sp.org/tlog-proof@v1", "header of the proof");
  demand(index.startsWith("index "), "index of the proof");
  const checkpoint = await openCheckpoint(proof.slice(gap + 2), ...trust);
  const at = decimal(index.slice(6));
  demand(at < checkpoint.size, "index within the log");
  const path = hashes.map(base64);
  demand(path.every((hash) => hash.length === 32), "length of a hash");
  const root = await rootFromProof(path, at, checkpoint.size, await leafHash(entry));
  demand(equal(root, checkpoint.root), "root over the proof");
}

// entries

const payloadType = "application/vnd.tapestry.event.v1+json";

function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const keys = Object.keys(value).sort();
  return `{${keys.map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join()}}`;
}

async function verifyEntry(entry, signers) {
  const { payload, payloadType: type, signatures, ...rest } = JSON.parse(entry);
  const again = canonical({ payload, payloadType: type, signatures, ...rest });
  demand(again === entry && Object.keys(rest).length === 0, "spelling of the entry");
  demand(type === payloadType, "type of the payload");
  const bytes = base64(payload);
  const text = utf8.decode(bytes);
  demand(canonical(JSON.parse(text)) === text, "spelling of the event");
  demand(signers.length > 0 && signatures.length === signers.length, "number of signatures");
  const signed = `DSSEv1 ${type.length} ${type} ${bytes.length} ${text}`;
  for (const [at, key] of signers.entries()) {
    demand(key.type === 1 && signatures[at].keyid === `${key.name}+${hexOf(key.id)}`, "key id");
    const own = await verifySignature(key, signed, base64(signatures[at].sig));
    demand(own, `signature of ${key.name}`);
  }
}

// the files

const { readFile } = await import("node:fs/promises");
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const args = process.argv.slice(2);
if (/^[^ +]+\+[0-9a-f]{8}\+/.test(args[1])) {
  const [file, ...keys] = args;
  await verifyEntry(utf8.decode(await readFile(file)), await Promise.all(keys.map(parseKey)));
  console.log("holds");
  process.exit();
}
const single = !/^[0-9]+$/.test(args[1]);
const [quorum, log, ...rest] = args.slice(single ? 2 : 1);
const words = { members: [quorum], outside: ["0"], former: ["0"] };
let own = words.members;
for (const word of rest) {
  if (word === "outside" || word === "former") own = words[word] = [];
  else own.push(word);
}
const members = new Map(); // who was a witness before a turn may be one still
for (const vkey of words.members.slice(1)) members.set(vkey, await parseKey(vkey));
const groupOf = async ([number, ...keys], known) => ({
  quorum: decimal(number),
  witnesses: await Promise.all(keys.map((vkey) => known.get(vkey) ?? parseKey(vkey))),
});
const groups = [
  await groupOf(words.members, members),
  await groupOf(words.outside, new Map()),
  await groupOf(words.former, members),
];
const trust = [await parseKey(log), groups];
const cosigners = groups.flatMap((group) => group.witnesses);
demand(trust[0].type === 1 && cosigners.every((key) => key.type === 4), "types of the keys");
if (single) {
  const proof = utf8.decode(await readFile(args[0]));
  await verifyProof(proof, new Uint8Array(await readFile(args[1])), trust);
} else {
  await verifyLog(async (path, text) => {
    const data = new Uint8Array(await readFile(`${args[0]}/${path}`));
    return text ? utf8.decode(data) : data;
  }, trust);
}
console.log("holds");
