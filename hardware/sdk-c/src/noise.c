#include "noise.h"

#include <string.h>

static const char NAME[] = "Noise_KKpsk0_25519_ChaChaPoly_SHA512";

static void mix_hash(claw_noise *noise, const uint8_t *bytes, size_t size)
{
    crypto_sha512_ctx hash;
    crypto_sha512_init(&hash);
    crypto_sha512_update(&hash, noise->hash, sizeof noise->hash);
    crypto_sha512_update(&hash, bytes, size);
    crypto_sha512_final(&hash, noise->hash);
}

/* Noise's HKDF: up to three outputs of 64 bytes, one after the other. */
static void derive(uint8_t (*out)[CLAW_HASH_SIZE], size_t outputs, const uint8_t chain[CLAW_HASH_SIZE],
                   const uint8_t *input, size_t size)
{
    uint8_t secret[CLAW_HASH_SIZE];
    claw_hmac(secret, sizeof secret, chain, CLAW_HASH_SIZE, input, size);
    for (size_t i = 0; i < outputs; i++) {
        uint8_t counter = (uint8_t)(i + 1);
        crypto_sha512_hmac_ctx mac;
        crypto_sha512_hmac_init(&mac, secret, sizeof secret);
        if (i > 0) {
            crypto_sha512_hmac_update(&mac, out[i - 1], CLAW_HASH_SIZE);
        }
        crypto_sha512_hmac_update(&mac, &counter, 1);
        crypto_sha512_hmac_final(&mac, out[i]);
    }
    crypto_wipe(secret, sizeof secret);
}

static void mix_key(claw_noise *noise, const uint8_t *input)
{
    uint8_t out[2][CLAW_HASH_SIZE];
    derive(out, 2, noise->chain, input, CLAW_KEY_SIZE);
    memcpy(noise->chain, out[0], CLAW_HASH_SIZE);
    memcpy(noise->key, out[1], CLAW_KEY_SIZE);
    crypto_wipe(out, sizeof out);
}

static void mix_psk(claw_noise *noise, const uint8_t psk[CLAW_KEY_SIZE])
{
    uint8_t out[3][CLAW_HASH_SIZE];
    derive(out, 3, noise->chain, psk, CLAW_KEY_SIZE);
    memcpy(noise->chain, out[0], CLAW_HASH_SIZE);
    mix_hash(noise, out[1], CLAW_HASH_SIZE);
    memcpy(noise->key, out[2], CLAW_KEY_SIZE);
    crypto_wipe(out, sizeof out);
}

/* Gives whether the shared secret was not all zero. */
static bool mix_dh(claw_noise *noise, const uint8_t *secret, const uint8_t *point)
{
    uint8_t shared[CLAW_KEY_SIZE];
    bool sound = claw_dh(shared, secret, point);
    mix_key(noise, shared);
    crypto_wipe(shared, sizeof shared);
    return sound;
}

void claw_noise_begin(claw_noise *noise, crypto_sha512_ctx *prologue)
{
    memset(noise, 0, sizeof *noise);
    memcpy(noise->hash, NAME, strlen(NAME));
    memcpy(noise->chain, noise->hash, sizeof noise->chain);
    crypto_sha512_init(prologue);
    crypto_sha512_update(prologue, noise->hash, sizeof noise->hash);
}

void claw_noise_statics(claw_noise *noise, crypto_sha512_ctx *prologue, const claw_noise_keys *keys)
{
    crypto_sha512_final(prologue, noise->hash);
    mix_hash(noise, keys->peer, CLAW_KEY_SIZE);
    mix_hash(noise, keys->own, CLAW_KEY_SIZE);
}

bool claw_noise_take(claw_noise *noise, const claw_noise_keys *keys, uint8_t *message, size_t size)
{
    uint8_t before[CLAW_HASH_SIZE];
    if (size < CLAW_KEY_SIZE + CLAW_TAG_SIZE) {
        return false;
    }
    memcpy(noise->ephemeral, message, CLAW_KEY_SIZE);
    mix_psk(noise, keys->psk);
    mix_hash(noise, noise->ephemeral, CLAW_KEY_SIZE);
    mix_key(noise, noise->ephemeral);
    if (!mix_dh(noise, keys->secret, noise->ephemeral) || !mix_dh(noise, keys->secret, keys->peer)) {
        return false;
    }
    uint8_t *sealed = message + CLAW_KEY_SIZE;
    size_t sealed_size = size - CLAW_KEY_SIZE;
    memcpy(before, noise->hash, sizeof before);
    mix_hash(noise, sealed, sealed_size);
    return claw_open(noise->key, 0, before, sizeof before, sealed, sealed_size);
}

bool claw_noise_give(claw_noise *noise, const claw_noise_keys *keys, const uint8_t secret[CLAW_KEY_SIZE],
                     uint8_t *message, size_t size)
{
    crypto_x25519_public_key(message, secret);
    mix_hash(noise, message, CLAW_KEY_SIZE);
    mix_key(noise, message);
    if (!mix_dh(noise, secret, noise->ephemeral) || !mix_dh(noise, secret, keys->peer)) {
        return false;
    }
    uint8_t *text = message + CLAW_KEY_SIZE;
    size_t sealed_size = size - CLAW_KEY_SIZE;
    claw_seal(noise->key, 0, noise->hash, sizeof noise->hash, text, sealed_size - CLAW_TAG_SIZE);
    mix_hash(noise, text, sealed_size);
    return true;
}

void claw_noise_split(claw_noise *noise, uint8_t from_initiator[CLAW_KEY_SIZE], uint8_t to_initiator[CLAW_KEY_SIZE])
{
    uint8_t out[2][CLAW_HASH_SIZE];
    derive(out, 2, noise->chain, NULL, 0);
    memcpy(from_initiator, out[0], CLAW_KEY_SIZE);
    memcpy(to_initiator, out[1], CLAW_KEY_SIZE);
    crypto_wipe(out, sizeof out);
    crypto_wipe(noise, sizeof *noise);
}
