#include "crypto.h"

#include <string.h>

void claw_hash_length(crypto_sha512_ctx *hash, size_t size)
{
    uint8_t prefix[5];
    size_t used = 0;
    while (size > 0x7f) {
        prefix[used++] = (uint8_t)(size & 0x7f) | 0x80;
        size >>= 7;
    }
    prefix[used++] = (uint8_t)size;
    crypto_sha512_update(hash, prefix, used);
}

void claw_hash_lv2(crypto_sha512_ctx *hash, const void *first, size_t first_size, const void *second,
                   size_t second_size)
{
    claw_hash_length(hash, first_size + second_size);
    crypto_sha512_update(hash, first, first_size);
    crypto_sha512_update(hash, second, second_size);
}

void claw_hash_lv(crypto_sha512_ctx *hash, const void *bytes, size_t size)
{
    claw_hash_length(hash, size);
    crypto_sha512_update(hash, bytes, size);
}

void claw_hash_peek(const crypto_sha512_ctx *hash, uint8_t out[CLAW_HASH_SIZE])
{
    crypto_sha512_ctx copy = *hash;
    crypto_sha512_final(&copy, out);
}

void claw_hmac(uint8_t *out, size_t out_size, const uint8_t *key, size_t key_size, const uint8_t *message,
               size_t message_size)
{
    uint8_t mac[CLAW_HASH_SIZE];
    crypto_sha512_hmac(mac, key, key_size, message, message_size);
    memcpy(out, mac, out_size);
    crypto_wipe(mac, sizeof mac);
}

void claw_expand(uint8_t *out, size_t out_size, const uint8_t key[CLAW_HASH_SIZE], const char *label)
{
    crypto_sha512_hkdf_expand(out, out_size, key, CLAW_HASH_SIZE, (const uint8_t *)label, strlen(label));
}

bool claw_dh(uint8_t out[CLAW_KEY_SIZE], const uint8_t secret[CLAW_KEY_SIZE], const uint8_t point[CLAW_KEY_SIZE])
{
    static const uint8_t zero[CLAW_KEY_SIZE];
    crypto_x25519(out, secret, point);
    return !claw_same(out, zero, sizeof zero);
}

/* Four zero bytes and the counter, little-endian: the nonce of Noise; with counter 0, that of pairing. */
static void begin(crypto_aead_ctx *aead, const uint8_t key[CLAW_KEY_SIZE], uint64_t counter)
{
    uint8_t nonce[12] = {0};
    for (size_t i = 0; i < 8; i++) {
        nonce[4 + i] = (uint8_t)(counter >> (8 * i));
    }
    crypto_aead_init_ietf(aead, key, nonce);
}

void claw_seal(const uint8_t key[CLAW_KEY_SIZE], uint64_t counter, const uint8_t *ad, size_t ad_size, uint8_t *text,
               size_t text_size)
{
    crypto_aead_ctx aead;
    begin(&aead, key, counter);
    crypto_aead_write(&aead, text, text + text_size, ad, ad_size, text, text_size);
    crypto_wipe(&aead, sizeof aead);
}

bool claw_open(const uint8_t key[CLAW_KEY_SIZE], uint64_t counter, const uint8_t *ad, size_t ad_size, uint8_t *sealed,
               size_t sealed_size)
{
    if (sealed_size < CLAW_TAG_SIZE) {
        return false;
    }
    size_t text_size = sealed_size - CLAW_TAG_SIZE;
    crypto_aead_ctx aead;
    begin(&aead, key, counter);
    int refused = crypto_aead_read(&aead, sealed, sealed + text_size, ad, ad_size, sealed, text_size);
    crypto_wipe(&aead, sizeof aead);
    return refused == 0;
}

bool claw_same(const uint8_t *a, const uint8_t *b, size_t size)
{
    uint8_t differs = 0;
    for (size_t i = 0; i < size; i++) {
        differs |= a[i] ^ b[i];
    }
    return differs == 0;
}
