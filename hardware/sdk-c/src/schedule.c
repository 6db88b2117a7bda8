#include "schedule.h"

#include <string.h>

#include "cpace.h"

/* Walks the map of a message that was read before, over all entries whose key is not in `without`. */
static void walk(crypto_sha512_ctx *hash, const uint8_t *message, size_t size, unsigned without, size_t *entries,
                 size_t *bytes)
{
    claw_reader reader = claw_read_from(message + 1, size - 1);
    claw_map map = claw_get_map(&reader);
    const uint8_t *start = reader.at;
    *entries = 0;
    *bytes = 0;
    for (int64_t key; claw_next_key(&map, &key); start = reader.at) {
        claw_skip(&reader);
        if (key >= 0 && key < 32 && (without >> key & 1)) {
            continue;
        }
        *entries += 1;
        *bytes += (size_t)(reader.at - start);
        if (hash != NULL) {
            crypto_sha512_update(hash, start, (size_t)(reader.at - start));
        }
    }
}

void claw_hash_without(crypto_sha512_ctx *hash, const uint8_t *message, size_t size, unsigned without)
{
    size_t entries, bytes;
    uint8_t head[1 + 9];
    walk(NULL, message, size, without, &entries, &bytes);
    claw_writer writer = claw_write_into(head, sizeof head);
    claw_put_byte(&writer, message[0]);
    claw_put_map(&writer, entries);
    claw_hash_length(hash, writer.used + bytes);
    crypto_sha512_update(hash, head, writer.used);
    walk(hash, message, size, without, &entries, &bytes);
}

void claw_hash_with(uint8_t out[CLAW_HASH_SIZE], const claw_run *run, const uint8_t *message, size_t size,
                    unsigned without)
{
    crypto_sha512_ctx hash = run->transcript;
    claw_hash_without(&hash, message, size, without);
    crypto_sha512_final(&hash, out);
}

void claw_make_share(const claw_sensor *sensor, const uint8_t h1[CLAW_HASH_SIZE], uint8_t share[CLAW_KEY_SIZE])
{
    const claw_run *run = &sensor->run;
    const char *ceremony = run->ceremony == CLAW_ISSUED ? "issued" : "label";
    uint8_t version = CLAW_VERSION;
    uint8_t generator[CLAW_KEY_SIZE];
    crypto_sha512_ctx hash;
    claw_cpace_generator_begin(&hash, sensor->window.prs, CLAW_PRS_SIZE);
    claw_hash_length(&hash, 10 + 2 + 1 + strlen(ceremony) + claw_names_size(sensor, run->gateway_id) + 1 + CLAW_HASH_SIZE);
    claw_hash_lv(&hash, "claw-pair", 9);
    claw_hash_lv(&hash, &version, 1);
    claw_hash_lv(&hash, ceremony, strlen(ceremony));
    claw_hash_names(&hash, sensor, run->gateway_id);
    claw_hash_lv(&hash, h1, CLAW_HASH_SIZE);
    claw_hash_lv(&hash, run->sid, sizeof run->sid);
    claw_cpace_generator_end(&hash, generator);
    crypto_x25519(share, run->scalar, generator);
    crypto_wipe(generator, sizeof generator);
}

bool claw_agree(const claw_run *run, const claw_m3 *m3, const uint8_t *message, size_t size,
                const uint8_t t3[CLAW_HASH_SIZE], uint8_t prk[CLAW_HASH_SIZE])
{
    uint8_t k[CLAW_KEY_SIZE], isk[CLAW_HASH_SIZE];
    crypto_sha512_ctx hash;
    bool sound = claw_dh(k, run->scalar, m3->share);
    claw_cpace_isk_begin(&hash, run->sid, sizeof run->sid, k);
    claw_hash_lv(&hash, run->sent + run->sent_size - CLAW_KEY_SIZE, CLAW_KEY_SIZE); /* M2 ends with Ya */
    claw_hash_lv(&hash, run->sent, run->sent_size);
    claw_hash_lv(&hash, m3->share, CLAW_KEY_SIZE);
    claw_hash_without(&hash, message, size, CLAW_WITHOUT(3));
    crypto_sha512_final(&hash, isk);
    claw_hmac(prk, CLAW_HASH_SIZE, t3, CLAW_HASH_SIZE, isk, sizeof isk);
    crypto_wipe(k, sizeof k);
    crypto_wipe(isk, sizeof isk);
    return sound;
}

void claw_make_tag(uint8_t tag[CLAW_KEY_SIZE], const uint8_t prk[CLAW_HASH_SIZE], const char *label,
                   const uint8_t t3[CLAW_HASH_SIZE])
{
    uint8_t key[CLAW_HASH_SIZE];
    claw_expand(key, sizeof key, prk, label);
    claw_hmac(tag, CLAW_KEY_SIZE, key, sizeof key, t3, CLAW_HASH_SIZE);
    crypto_wipe(key, sizeof key);
}

#define LV_KEM_MAX (1 + CLAW_KEM_SECRET)

/* lv(kem); suite 1 has none, and it is one zero byte. Gives its size. */
static size_t put_lv_kem(const claw_run *run, uint8_t out[LV_KEM_MAX])
{
    out[0] = 0;
#ifdef CLAW_SUITE2
    if (run->suite == 2) {
        out[0] = CLAW_KEM_SECRET;
        memcpy(out + 1, run->kem, CLAW_KEM_SECRET);
    }
#else
    (void)run;
#endif
    return 1u + out[0];
}

void claw_make_seal_key(const claw_run *run, uint8_t out[CLAW_KEY_SIZE], const uint8_t prk[CLAW_HASH_SIZE],
                        const char *label)
{
    uint8_t key[CLAW_HASH_SIZE], kem[LV_KEM_MAX];
    size_t kem_size = put_lv_kem(run, kem);
    claw_expand(key, sizeof key, prk, "seal");
    claw_hmac(key, sizeof key, key, sizeof key, kem, kem_size);
    claw_expand(out, CLAW_KEY_SIZE, key, label);
    crypto_wipe(key, sizeof key);
    crypto_wipe(kem, sizeof kem);
}

bool claw_make_root(const claw_sensor *sensor, const uint8_t *gateway_static, uint8_t root[CLAW_HASH_SIZE])
{
    const claw_run *run = &sensor->run;
    uint8_t input[1 + CLAW_HASH_SIZE + LV_KEM_MAX + 1 + CLAW_KEY_SIZE], info[1 + CLAW_HASH_SIZE + 2 * (1 + CLAW_KEY_SIZE)];
    input[0] = CLAW_HASH_SIZE;
    memcpy(input + 1, run->link, CLAW_HASH_SIZE);
    size_t used = 1 + CLAW_HASH_SIZE;
    used += put_lv_kem(run, input + used);
    input[used++] = CLAW_KEY_SIZE;
    bool sound = claw_dh(input + used, sensor->static_secret, gateway_static);
    claw_hmac(root, CLAW_HASH_SIZE, NULL, 0, input, used + CLAW_KEY_SIZE);

    info[0] = CLAW_HASH_SIZE;
    claw_hash_peek(&run->transcript, info + 1);
    info[1 + CLAW_HASH_SIZE] = CLAW_KEY_SIZE;
    memcpy(info + 2 + CLAW_HASH_SIZE, sensor->static_public, CLAW_KEY_SIZE);
    info[2 + CLAW_HASH_SIZE + CLAW_KEY_SIZE] = CLAW_KEY_SIZE;
    memcpy(info + 3 + CLAW_HASH_SIZE + CLAW_KEY_SIZE, gateway_static, CLAW_KEY_SIZE);
    crypto_sha512_hkdf_expand(root, CLAW_HASH_SIZE, root, CLAW_HASH_SIZE, info, sizeof info);
    crypto_wipe(input, sizeof input);
    return sound;
}

void claw_make_mac(uint8_t mac[CLAW_MAC_SIZE], const uint8_t root[CLAW_HASH_SIZE], const char *label,
                   const uint8_t hash[CLAW_HASH_SIZE])
{
    uint8_t key[CLAW_HASH_SIZE];
    claw_expand(key, sizeof key, root, label);
    claw_hmac(mac, CLAW_MAC_SIZE, key, sizeof key, hash, CLAW_HASH_SIZE);
    crypto_wipe(key, sizeof key);
}
