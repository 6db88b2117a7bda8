/* What a run of pairing computes from its messages: transcript hashes, tags, keys. No message is written or judged here. */
#ifndef CLAW_SCHEDULE_H
#define CLAW_SCHEDULE_H

#include "message.h"
#include "sensor.h"

#define CLAW_MAC_SIZE 16
/* In a set of keys of a map: this one. */
#define CLAW_WITHOUT(key) (1u << (key))

/* Absorbs lv(message without some keys). The message was read before. */
void claw_hash_without(crypto_sha512_ctx *hash, const uint8_t *message, size_t size, unsigned without);
/* The hash of all messages so far and of one more without some keys. */
void claw_hash_with(uint8_t out[CLAW_HASH_SIZE], const claw_run *run, const uint8_t *message, size_t size,
                    unsigned without);
/* g from the code, both names, the link, M1 (its hash) and the session id; Ya from it. */
void claw_make_share(const claw_sensor *sensor, const uint8_t h1[CLAW_HASH_SIZE], uint8_t share[CLAW_KEY_SIZE]);
/* PRK from K and the transcript up to M3. False: K is all zero. */
bool claw_agree(const claw_run *run, const claw_m3 *m3, const uint8_t *message, size_t size,
                const uint8_t t3[CLAW_HASH_SIZE], uint8_t prk[CLAW_HASH_SIZE]);
void claw_make_tag(uint8_t tag[CLAW_KEY_SIZE], const uint8_t prk[CLAW_HASH_SIZE], const char *label,
                   const uint8_t t3[CLAW_HASH_SIZE]);
/* k4 or k5. */
void claw_make_seal_key(const claw_run *run, uint8_t out[CLAW_KEY_SIZE], const uint8_t prk[CLAW_HASH_SIZE],
                        const char *label);
/* The root of all keys that last. False: the shared secret of the statics is all zero. */
bool claw_make_root(const claw_sensor *sensor, const uint8_t *gateway_static, uint8_t root[CLAW_HASH_SIZE]);
void claw_make_mac(uint8_t mac[CLAW_MAC_SIZE], const uint8_t root[CLAW_HASH_SIZE], const char *label,
                   const uint8_t hash[CLAW_HASH_SIZE]);

#endif
