// Verify a log with nothing but WebCrypto, as a page in a reader's browser would.
//
//   node verify.mjs DIR QUORUM LOG-VKEY WITNESS-VKEY...   the whole log
//   node verify.mjs PROOF ENTRY QUORUM LOG-VKEY WITNESS-VKEY...   one entry
//   ... WITNESS-VKEY... outside QUORUM WITNESS-VKEY...   with witnesses that are no members
//   node verify.mjs BUNDLE trust POLICY...   a bundle, over the turns of its log: the
//       policy of the founding, then that in force after each turn
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
  return { name, id: sum, type: material[0], key, vkey, raw: hexOf(material.slice(1)) };
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
  await verifyRoot(await readEntries(read, checkpoint.size), checkpoint);
}

async function readEntries(read, size) {
  const all = [];
  for (let at = 0; at < size; at += 256) {
    const width = Math.min(256, size - at);
    const entries = splitBundle(await read(bundlePath(at / 256, width)));
    demand(entries.length === width, `${width} entries from ${at} on`);
    all.push(...entries);
  }
  return all;
}

async function verifyRoot(entries, { size, root }) {
  const leaves = await Promise.all(entries.slice(0, size).map(leafHash));
  demand(leaves.length === size && equal(await treeRoot(leaves), root), `root over ${size} entries`);
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

// turns

const TRUST = new RegExp(
  "^(log ([!-~]+)\\n(?:witness [!-~]+ [!-~]+(?: [!-~]+)?\\n)+)" +
    "group members [0-9]+((?: [!-~]+)+)\\n(?:group outside ([1-9][0-9]{0,3}) )?",
);

// a policy in the one spelling that a federation gives it: its log, the members'
// witnesses, of whom a safe quorum must have cosigned, and outside witnesses
async function parseTrust(text, known) {
  const [, head, log, counted, number = "0"] = TRUST.exec(text) ?? [];
  demand(head, "a trust policy as it is published");
  const rows = head.split("\n").slice(1, -1).map((line) => line.split(" "));
  const names = rows.map((row) => row[1]);
  const [members, outside] = [counted.split(" ").length - 1, decimal(number)];
  const quorum = Math.floor((members + Math.floor((members - 1) / 3)) / 2) + 1;
  let groups = `group members ${quorum} ${names.slice(0, members).join(" ")}\n`;
  if (outside > 0) {
    groups += `group outside ${outside} ${names.slice(members).join(" ")}\n`;
    groups += "group all 2 members outside\n";
  }
  const again = `${head}${groups}quorum ${outside > 0 ? "all" : "members"}\n`;
  demand(again === text, "groups and quorums of the policy");
  for (const vkey of [log, ...rows.map((row) => row[2])]) {
    if (!known.has(vkey)) known.set(vkey, await parseKey(vkey)); // one object for each key
  }
  const keys = [log, ...rows.map((row) => row[2])].map((vkey) => known.get(vkey));
  demand(keys.every(({ type }, at) => type === (at ? 4 : 1)), "types of the keys");
  demand(new Set(keys.map((key) => key.raw)).size === keys.length, "no key twice");
  const [first, second] = [keys.slice(1, members + 1), keys.slice(members + 1)];
  const witnesses = [{ quorum, witnesses: first }, { quorum: outside, witnesses: second }];
  return { text, keys, log: keys[0], groups: witnesses };
}

// sizes are the names of the turns, the oldest first; texts has the policy before them,
// that after each, and one more where the newest checkpoint is a turn that has no file
async function verifyBundle(read, sizes, texts) {
  const [chain, known] = [[], new Map()];
  for (const text of texts) chain.push(await parseTrust(text, known));
  const more = chain.length - sizes.length - 1;
  demand(more === 0 || more === 1, `${chain.length} policies with ${sizes.length} turns`);
  demand(texts[0] === (await read("trust-policy.txt", true)), "the bundle's trust-policy.txt");
  demand(chain.every(({ log }) => log.name === chain[0].log.name), "one name of the log");
  demand(texts.every((text, at) => text !== texts[at - 1]), "another policy after each turn");
  const heads = [];
  let [before, last] = [chain[0], ""];
  for (const [at, name] of [...sizes.map((size) => `turns/${size}`), "checkpoint"].entries()) {
    const note = await read(name, true);
    const text = note.split("\n\n")[0];
    // the newest checkpoint may be that of the last turn, with lines of both sets
    demand(text !== last || more === 0, `${name}: two turns of one size`);
    if (text !== last) [before, last] = [chain[at], text];
    const now = chain[Math.min(at + 1, chain.length - 1)];
    heads.push(await openCheckpoint(note, now.log, [...now.groups, ...before.groups]));
  }
  const entries = await readEntries(read, heads[sizes.length].size);
  const named = firstNamed(entries);
  for (const [at, head] of heads.entries()) {
    demand(at === sizes.length || sizes[at] === String(head.size), `size of turns/${sizes[at]}`);
    await verifyRoot(entries, head);
    const missing = chain[at + 1]?.keys.find(({ vkey }) => !(named.get(vkey) < head.size));
    demand(!missing, `an entry of the first ${head.size} that names ${missing?.vkey}`);
  }
}

// in which entry each verify key stands first
function firstNamed(entries) {
  const named = new Map();
  for (const [at, entry] of entries.entries()) {
    const payload = utf8.decode(base64(JSON.parse(utf8.decode(entry)).payload));
    for (const [, vkey] of payload.matchAll(/"([^"\\+]+\+[0-9a-f]{8}\+[0-9A-Za-z+/]{44})"/g)) {
      if (!named.has(vkey)) named.set(vkey, at);
    }
  }
  return named;
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

const { readFile, readdir } = await import("node:fs/promises");
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const args = process.argv.slice(2);
if (/^[^ +]+\+[0-9a-f]{8}\+/.test(args[1])) {
  const [file, ...keys] = args;
  await verifyEntry(utf8.decode(await readFile(file)), await Promise.all(keys.map(parseKey)));
  console.log("holds");
  process.exit();
}
const readFrom = (folder) => async (path, text) => {
  const data = new Uint8Array(await readFile(`${folder}/${path}`));
  return text ? utf8.decode(data) : data;
};
if (args[1] === "trust") {
  const sizes = await readdir(`${args[0]}/turns`).catch((error) => {
    demand(error.code === "ENOENT", `reading turns: ${error.code}`);
    return [];
  });
  sizes.sort((a, b) => a - b);
  const policies = await Promise.all(args.slice(2).map(async (file) => utf8.decode(await readFile(file))));
  await verifyBundle(readFrom(args[0]), sizes, policies);
  console.log("holds");
  process.exit();
}
const single = !/^[0-9]+$/.test(args[1]);
const [quorum, log, ...rest] = args.slice(single ? 2 : 1);
const words = { members: [quorum], outside: ["0"] };
let own = words.members;
for (const word of rest) {
  if (word === "outside") own = words.outside = [];
  else own.push(word);
}
const groups = [];
for (const [number, ...keys] of [words.members, words.outside]) {
  groups.push({ quorum: decimal(number), witnesses: await Promise.all(keys.map(parseKey)) });
}
const trust = [await parseKey(log), groups];
const cosigners = groups.flatMap((group) => group.witnesses);
demand(trust[0].type === 1 && cosigners.every((key) => key.type === 4), "types of the keys");
if (single) {
  const proof = utf8.decode(await readFile(args[0]));
  await verifyProof(proof, new Uint8Array(await readFile(args[1])), trust);
} else {
  await verifyLog(readFrom(args[0]), trust);
}
console.log("holds");
