"""ML-KEM-768 written from FIPS 203, in plain integers: keys, and both directions.

It shares no code with OpenSSL, and its encapsulation takes the random bytes as an
argument, so that known answers can be printed.
"""

import hashlib

Q, N, K, ETA, DU, DV = 3329, 256, 3, 2, 10, 4
ZETAS = [pow(17, int(f"{i:07b}"[::-1], 2), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * int(f"{i:07b}"[::-1], 2) + 1, Q) for i in range(128)]

Poly = list[int]


def hash_two(data: bytes) -> tuple[bytes, bytes]:
    digest = hashlib.sha3_512(data).digest()
    return digest[:32], digest[32:]


def pack(poly: Poly, bits: int) -> bytes:
    value = sum(c << (bits * i) for i, c in enumerate(poly))
    return value.to_bytes(32 * bits, "little")


def unpack(data: bytes, bits: int) -> Poly:
    value = int.from_bytes(data, "little")
    return [value >> (bits * i) & ((1 << bits) - 1) for i in range(N)]


def compress(poly: Poly, bits: int) -> Poly:
    return [((c << (bits + 1)) + Q) // (2 * Q) % (1 << bits) for c in poly]


def decompress(poly: Poly, bits: int) -> Poly:
    return [(c * Q + (1 << (bits - 1))) >> bits for c in poly]


def sample_uniform(seed: bytes) -> Poly:
    stream = hashlib.shake_128(seed).digest(1344)
    found = []
    for a, b, c in zip(*[iter(stream)] * 3, strict=True):
        found += [d for d in (a + 256 * (b % 16), b // 16 + 16 * c) if d < Q]
    assert len(found) >= N
    return found[:N]


def sample_small(seed: bytes, nonce: int) -> Poly:
    stream = hashlib.shake_256(seed + bytes([nonce])).digest(64 * ETA)
    value = int.from_bytes(stream, "little")
    bits = [value >> i & 1 for i in range(2 * ETA * N)]
    return [
        (bits[4 * i] + bits[4 * i + 1] - bits[4 * i + 2] - bits[4 * i + 3]) % Q
        for i in range(N)
    ]


def ntt(poly: Poly) -> Poly:
    f, i, length = list(poly), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = ZETAS[i] * f[j + length] % Q
                f[j], f[j + length] = (f[j] + t) % Q, (f[j] - t) % Q
            i += 1
        length //= 2
    return f


def inverse_ntt(poly: Poly) -> Poly:
    f, i, length = list(poly), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = ZETAS[i] * (f[j + length] - t) % Q
            i -= 1
        length *= 2
    return [c * 3303 % Q for c in f]


def times(f: Poly, g: Poly) -> Poly:
    h = []
    for i, gamma in enumerate(GAMMAS):
        a, b, c, d = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a * c + b * d * gamma) % Q, (a * d + b * c) % Q]
    return h


def plus(*polys: Poly) -> Poly:
    return [sum(column) % Q for column in zip(*polys, strict=True)]


def matrix(rho: bytes) -> list[list[Poly]]:
    return [[sample_uniform(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def make_key(seed: bytes) -> tuple[bytes, bytes]:
    """Encapsulation and decapsulation key of 64 secret bytes (algorithm 16)."""
    d, z = seed[:32], seed[32:]
    rho, sigma = hash_two(d + bytes([K]))
    a = matrix(rho)
    s = [ntt(sample_small(sigma, i)) for i in range(K)]
    e = [ntt(sample_small(sigma, K + i)) for i in range(K)]
    t = [plus(*(times(a[i][j], s[j]) for j in range(K)), e[i]) for i in range(K)]
    public = b"".join(pack(row, 12) for row in t) + rho
    private = b"".join(pack(row, 12) for row in s)
    return public, private + public + hashlib.sha3_256(public).digest() + z


def encrypt(public: bytes, message: bytes, coins: bytes) -> bytes:
    t = [unpack(public[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    a = matrix(public[384 * K :])
    y = [ntt(sample_small(coins, i)) for i in range(K)]
    e1 = [sample_small(coins, K + i) for i in range(K)]
    e2 = sample_small(coins, 2 * K)
    u = [
        plus(inverse_ntt(plus(*(times(a[j][i], y[j]) for j in range(K)))), e1[i])
        for i in range(K)
    ]
    v = inverse_ntt(plus(*(times(t[i], y[i]) for i in range(K))))
    v = plus(v, e2, decompress(unpack(message, 1), 1))
    packed = [pack(compress(row, DU), DU) for row in u]
    return b"".join(packed) + pack(compress(v, DV), DV)


def encapsulate(public: bytes, drawn: bytes) -> tuple[bytes, bytes]:
    """Secret and ciphertext for 32 random bytes (algorithm 17)."""
    secret, coins = hash_two(drawn + hashlib.sha3_256(public).digest())
    return secret, encrypt(public, drawn, coins)


def decapsulate(private: bytes, ciphertext: bytes) -> bytes:
    """The secret of a ciphertext; another one if it was changed (algorithm 18)."""
    public = private[384 * K : 768 * K + 32]
    end = 32 * DU
    u = [
        decompress(unpack(ciphertext[end * i : end * (i + 1)], DU), DU)
        for i in range(K)
    ]
    v = decompress(unpack(ciphertext[end * K :], DV), DV)
    s = [unpack(private[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    inner = inverse_ntt(plus(*(times(s[i], ntt(u[i])) for i in range(K))))
    message = pack(compress([(a - b) % Q for a, b in zip(v, inner, strict=True)], 1), 1)
    secret, coins = hash_two(message + private[768 * K + 32 : 768 * K + 64])
    if encrypt(public, message, coins) == ciphertext:
        return secret
    return hashlib.shake_256(private[-32:] + ciphertext).digest(32)
