/* The primitives of suite 1 as the protocol uses them: lv() hashing, HMAC, HKDF, X25519, ChaCha20-Poly1305.
 * Everything here is a thin layer over Monocypher. */
#ifndef CLAW_CRYPTO_H
#define CLAW_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "monocypher-ed25519.h"
#include "monocypher.h"

#define CLAW_HASH_SIZE 64
#define CLAW_KEY_SIZE 32
#define CLAW_TAG_SIZE 16

/* Absorbs lv(bytes): the length as LEB128, then the bytes. */
void claw_hash_lv(crypto_sha512_ctx *hash, const void *bytes, size_t size);
/* Absorbs lv(first || second). */
void claw_hash_lv2(crypto_sha512_ctx *hash, const void *first, size_t first_size, const void *second,
                   size_t second_size);
/* Absorbs the length of an lv() whose bytes follow in pieces. */
void claw_hash_length(crypto_sha512_ctx *hash, size_t size);
/* The hash so far; the running hash goes on. */
void claw_hash_peek(const crypto_sha512_ctx *hash, uint8_t out[CLAW_HASH_SIZE]);

/* HMAC-SHA512, cut to `out_size` bytes (at most 64). */
void claw_hmac(uint8_t *out, size_t out_size, const uint8_t *key, size_t key_size, const uint8_t *message,
               size_t message_size);
/* HKDF-Expand to at most 64 bytes under a label. */
void claw_expand(uint8_t *out, size_t out_size, const uint8_t key[CLAW_HASH_SIZE], const char *label);

/* X25519. False, when the result is all zero: whoever gets it must end the run. */
bool claw_dh(uint8_t out[CLAW_KEY_SIZE], const uint8_t secret[CLAW_KEY_SIZE], const uint8_t point[CLAW_KEY_SIZE]);

/* ChaCha20-Poly1305 (RFC 8439) in place: `text` becomes the ciphertext, the tag is written behind it. */
void claw_seal(const uint8_t key[CLAW_KEY_SIZE], uint64_t counter, const uint8_t *ad, size_t ad_size, uint8_t *text,
               size_t text_size);
/* The other way: `sealed_size` counts the tag. False, when it is not authentic; the text is then untouched. */
bool claw_open(const uint8_t key[CLAW_KEY_SIZE], uint64_t counter, const uint8_t *ad, size_t ad_size, uint8_t *sealed,
               size_t sealed_size);

/* Constant-time comparison. */
bool claw_same(const uint8_t *a, const uint8_t *b, size_t size);

#endif
