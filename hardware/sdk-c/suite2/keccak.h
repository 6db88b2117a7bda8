/* SHA-3 and SHAKE (FIPS 202), as mlkem-native asks for them. Small, not fast: one permutation of about 60 lines. */
#ifndef CLAW_KECCAK_H
#define CLAW_KECCAK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SHAKE128_RATE 168
#define SHAKE256_RATE 136
#define SHA3_256_RATE 136
#define SHA3_512_RATE 72

typedef struct {
    uint64_t lane[25];
} claw_keccak;

void claw_keccak_permute(claw_keccak *state);
/* Takes all of the input, pads it, and leaves the state ready to give its first block. */
void claw_keccak_absorb(claw_keccak *state, size_t rate, uint8_t suffix, const uint8_t *in, size_t size);
/* Gives bytes of the blocks that follow; `size` is a multiple of the rate, or this is the last call. */
void claw_keccak_squeeze(claw_keccak *state, size_t rate, uint8_t *out, size_t size);

#define mlk_shake128ctx claw_keccak

static inline void mlk_shake128_init(claw_keccak *state)
{
    memset(state, 0, sizeof *state);
}

static inline void mlk_shake128_release(claw_keccak *state)
{
    memset(state, 0, sizeof *state);
}

static inline void mlk_shake128_absorb_once(claw_keccak *state, const uint8_t *in, size_t size)
{
    claw_keccak_absorb(state, SHAKE128_RATE, 0x1f, in, size);
}

static inline void mlk_shake128_squeezeblocks(uint8_t *out, size_t blocks, claw_keccak *state)
{
    claw_keccak_squeeze(state, SHAKE128_RATE, out, blocks * SHAKE128_RATE);
}

static inline void claw_keccak_hash(size_t rate, uint8_t suffix, uint8_t *out, size_t out_size, const uint8_t *in,
                                    size_t size)
{
    claw_keccak state;
    claw_keccak_absorb(&state, rate, suffix, in, size);
    claw_keccak_squeeze(&state, rate, out, out_size);
    memset(&state, 0, sizeof state);
}

static inline void mlk_shake256(uint8_t *out, size_t out_size, const uint8_t *in, size_t size)
{
    claw_keccak_hash(SHAKE256_RATE, 0x1f, out, out_size, in, size);
}

static inline void mlk_sha3_256(uint8_t *out, const uint8_t *in, size_t size)
{
    claw_keccak_hash(SHA3_256_RATE, 0x06, out, 32, in, size);
}

static inline void mlk_sha3_512(uint8_t *out, const uint8_t *in, size_t size)
{
    claw_keccak_hash(SHA3_512_RATE, 0x06, out, 64, in, size);
}

#endif
