/* The responder of Noise_KKpsk0_25519_ChaChaPoly_SHA512 (Noise revision 34). */
#ifndef CLAW_NOISE_H
#define CLAW_NOISE_H

#include "crypto.h"

typedef struct {
    uint8_t hash[CLAW_HASH_SIZE];  /* h */
    uint8_t chain[CLAW_HASH_SIZE]; /* ck */
    uint8_t key[CLAW_KEY_SIZE];    /* k */
    uint8_t ephemeral[CLAW_KEY_SIZE]; /* the initiator's */
} claw_noise;

typedef struct {
    const uint8_t *secret;     /* own static secret */
    const uint8_t *own;        /* own static public key */
    const uint8_t *peer;       /* the initiator's static public key */
    const uint8_t *psk;
} claw_noise_keys;

/* Starts with H(...) of the prologue still to come: the caller absorbs it between these two. */
void claw_noise_begin(claw_noise *noise, crypto_sha512_ctx *prologue);
void claw_noise_statics(claw_noise *noise, crypto_sha512_ctx *prologue, const claw_noise_keys *keys);
/* Takes message 1: ephemeral, sealed payload with its tag (opened in place). False: not authentic. */
bool claw_noise_take(claw_noise *noise, const claw_noise_keys *keys, uint8_t *message, size_t size);
/* Writes message 2 over `message`: 32 bytes of ephemeral, then the payload that lies there already, sealed, then
 * its tag. `size` is all of it. False: a shared secret was all zero. */
bool claw_noise_give(claw_noise *noise, const claw_noise_keys *keys, const uint8_t secret[CLAW_KEY_SIZE],
                     uint8_t *message, size_t size);
/* The two record keys; the state is wiped. */
void claw_noise_split(claw_noise *noise, uint8_t from_initiator[CLAW_KEY_SIZE], uint8_t to_initiator[CLAW_KEY_SIZE]);

#endif
