#include "cpace.h"

#include <string.h>

static const char DSI[] = "CPace255";
static const char DSI_ISK[] = "CPace255_ISK";
#define SHA512_BLOCK 128

void claw_cpace_generator_begin(crypto_sha512_ctx *hash, const uint8_t *prs, size_t prs_size)
{
    static const uint8_t zeros[SHA512_BLOCK];
    size_t ahead = (1 + prs_size) + (1 + strlen(DSI)); /* both are shorter than 128: prefixes of one byte */
    size_t padding = ahead + 1 < SHA512_BLOCK ? SHA512_BLOCK - 1 - ahead : 0;
    crypto_sha512_init(hash);
    claw_hash_lv(hash, DSI, strlen(DSI));
    claw_hash_lv(hash, prs, prs_size);
    claw_hash_lv(hash, zeros, padding);
}

/* a - b over 256 bits, little-endian; gives the borrow. */
static uint8_t subtract(uint8_t out[32], const uint8_t a[32], const uint8_t b[32])
{
    unsigned borrow = 0;
    for (size_t i = 0; i < 32; i++) {
        unsigned difference = (unsigned)a[i] - b[i] - borrow;
        out[i] = (uint8_t)difference;
        borrow = (difference >> 8) & 1;
    }
    return (uint8_t)borrow;
}

/* Copies `from` where `yes` is 1, without a branch: the representative is a secret. */
static void select(uint8_t to[32], const uint8_t from[32], uint8_t yes)
{
    uint8_t mask = (uint8_t)(0u - yes);
    for (size_t i = 0; i < 32; i++) {
        to[i] ^= mask & (to[i] ^ from[i]);
    }
}

/* Monocypher's map reads 254 bits of its input, the draft 255. r and p - r have the same image, and one of the two
 * is below 2^254: that one is handed over. */
static void fold(uint8_t r[32])
{
    static const uint8_t p[32] = {0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                  0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                  0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
    uint8_t other[32];
    r[31] &= 0x7f;
    uint8_t below_p = subtract(other, r, p);
    select(r, other, below_p ^ 1);
    subtract(other, p, r);
    select(r, other, (r[31] >> 6) & 1);
    crypto_wipe(other, sizeof other);
}

void claw_cpace_generator_end(crypto_sha512_ctx *hash, uint8_t generator[CLAW_KEY_SIZE])
{
    uint8_t digest[CLAW_HASH_SIZE];
    crypto_sha512_final(hash, digest);
    fold(digest);
    crypto_elligator_map(generator, digest);
    crypto_wipe(digest, sizeof digest);
}

void claw_cpace_isk_begin(crypto_sha512_ctx *hash, const uint8_t *sid, size_t sid_size,
                          const uint8_t k[CLAW_KEY_SIZE])
{
    crypto_sha512_init(hash);
    claw_hash_lv(hash, DSI_ISK, strlen(DSI_ISK));
    claw_hash_lv(hash, sid, sid_size);
    claw_hash_lv(hash, k, CLAW_KEY_SIZE);
}
