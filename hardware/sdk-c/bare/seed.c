#include "seed.h"

#include <string.h>

#include "monocypher.h"
#include "semihost.h"

/* ChaCha20 under a key that each call replaces: what was given out cannot be computed from what is kept. */
bool seed_random(uint8_t *out, size_t size)
{
    static uint8_t key[32];
    static bool seeded;
    static const uint8_t nonce[8];
    uint8_t block[64];
    if (!seeded) {
        seeded = semihost_seed(key, sizeof key);
        if (!seeded) {
            return false;
        }
    }
    crypto_chacha20_djb(block, NULL, sizeof block, key, nonce, 0);
    crypto_chacha20_djb(out, NULL, size, key, nonce, 1);
    memcpy(key, block, sizeof key);
    crypto_wipe(block, sizeof block);
    return true;
}
