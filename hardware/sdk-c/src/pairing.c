#include "pairing.h"

#include <string.h>

#include "cpace.h"
#include "message.h"
#include "sensor.h"

#define RUN_MS 10000
#define TAGS_UNANSWERED_MAX 3
#define KEY(k) (1u << (k))
#define MAC_SIZE 16

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

/* The hash of all messages so far and of one more without some keys. */
static void hash_with(uint8_t out[CLAW_HASH_SIZE], const claw_run *run, const uint8_t *message, size_t size,
                      unsigned without)
{
    crypto_sha512_ctx hash = run->transcript;
    claw_hash_without(&hash, message, size, without);
    crypto_sha512_final(&hash, out);
}

static void answer(claw_sensor *sensor)
{
    memcpy(sensor->outbox.message, sensor->run.sent, sensor->run.sent_size);
    claw_send(sensor, sensor->run.sent_size);
}

void claw_pairing_end(claw_sensor *sensor, bool refuse, claw_failure why)
{
    bool failed = sensor->run.stage != CLAW_RUN_NONE && sensor->run.stage != CLAW_RUN_SENT_M6;
    crypto_wipe(&sensor->run, sizeof sensor->run);
    if (!failed) {
        return;
    }
    if (refuse) {
        claw_refuse(sensor);
    }
    claw_tell(sensor, CLAW_PAIRING_FAILED, why);
    if (sensor->window.unanswered >= TAGS_UNANSWERED_MAX) {
        claw_window_close(sensor); /* it was only for that code */
    }
}

/* A message that is not the next one: ends a run before M6, and begins none. */
static void disturbed(claw_sensor *sensor)
{
    if (sensor->run.stage != CLAW_RUN_SENT_M6) {
        claw_pairing_end(sensor, true, CLAW_BROKEN_RULES);
    }
}

/* g from the code, both names, the link, M1 and the session id; Ya from it. */
static void make_share(const claw_sensor *sensor, const uint8_t h1[CLAW_HASH_SIZE], uint8_t share[CLAW_KEY_SIZE])
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

static void write_m2(claw_sensor *sensor, const uint8_t share[CLAW_KEY_SIZE])
{
    claw_run *run = &sensor->run;
    claw_writer writer = claw_write_into(run->sent, sizeof run->sent);
    claw_put_byte(&writer, CLAW_M2);
    claw_put_map(&writer, 6);
    claw_put_uint(&writer, 1);
    claw_put_uint(&writer, CLAW_VERSION);
    claw_put_uint(&writer, 2);
    claw_put_uint(&writer, run->suite);
    claw_put_uint(&writer, 3);
    claw_put_text(&writer, sensor->unit.device_id);
    claw_put_uint(&writer, 4);
    claw_put_uint(&writer, CLAW_MESSAGE_MAX);
    claw_put_uint(&writer, 5);
    claw_put_bytes(&writer, run->sid + CLAW_NONCE_SIZE, CLAW_NONCE_SIZE);
    claw_put_uint(&writer, 6);
    claw_put_bytes(&writer, share, CLAW_KEY_SIZE);
    run->sent_size = writer.used;
}

/* The highest suite that both can do, or 0. */
static uint8_t choose_suite(claw_slice offered)
{
    static const uint8_t own[] = CLAW_SUITES;
    for (size_t i = sizeof own; i-- > 0;) {
        if (memchr(offered.bytes, own[i], offered.size) != NULL) {
            return own[i];
        }
    }
    return 0;
}

/* Gives whether the run goes on. */
static bool take_m1(claw_sensor *sensor, const uint8_t *message, size_t size, uint64_t now_ms)
{
    claw_run *run = &sensor->run;
    const claw_window *window = &sensor->window;
    claw_m1 m1;
    if (window->ceremony == CLAW_CLOSED) {
        return false;
    }
    if (!claw_read_m1(&m1, message, size)) {
        claw_refuse(sensor);
        return false;
    }
    bool waits = window->ceremony == CLAW_LABEL && now_ms < window->label_ready_ms;
    run->suite = choose_suite(m1.suites);
    bool agrees = m1.version == CLAW_VERSION && m1.ceremony == (uint64_t)window->ceremony && run->suite != 0;
    memcpy(run->sid, m1.nonce, CLAW_NONCE_SIZE);
    if (waits || !agrees) {
        claw_refuse(sensor);
        return false;
    }
    if (!claw_random(sensor, run->sid + CLAW_NONCE_SIZE, CLAW_NONCE_SIZE) ||
        !claw_random(sensor, run->scalar, CLAW_KEY_SIZE)) {
        claw_refuse(sensor);
        claw_tell(sensor, CLAW_PAIRING_FAILED, CLAW_NOTHING_RANDOM);
        return false;
    }
    run->ceremony = (uint8_t)window->ceremony;
    run->until_ms = now_ms + RUN_MS;
    memcpy(run->gateway_id, m1.gateway_id.bytes, m1.gateway_id.size);
    run->gateway_id[m1.gateway_id.size] = '\0';

    uint8_t h1[CLAW_HASH_SIZE], share[CLAW_KEY_SIZE];
    crypto_sha512(h1, message, size);
    make_share(sensor, h1, share);
    write_m2(sensor, share);
    crypto_sha512_init(&run->transcript);
    claw_hash_lv(&run->transcript, message, size);
    claw_hash_lv(&run->transcript, run->sent, run->sent_size);
    return true;
}

/* PRK from K and the transcript up to M3. False: K is all zero. */
static bool agree(const claw_run *run, const claw_m3 *m3, const uint8_t *message, size_t size,
                  const uint8_t t3[CLAW_HASH_SIZE], uint8_t prk[CLAW_HASH_SIZE])
{
    uint8_t k[CLAW_KEY_SIZE], isk[CLAW_HASH_SIZE];
    crypto_sha512_ctx hash;
    bool sound = claw_dh(k, run->scalar, m3->share);
    claw_cpace_isk_begin(&hash, run->sid, sizeof run->sid, k);
    claw_hash_lv(&hash, run->sent + run->sent_size - CLAW_KEY_SIZE, CLAW_KEY_SIZE); /* M2 ends with Ya */
    claw_hash_lv(&hash, run->sent, run->sent_size);
    claw_hash_lv(&hash, m3->share, CLAW_KEY_SIZE);
    claw_hash_without(&hash, message, size, KEY(3));
    crypto_sha512_final(&hash, isk);
    claw_hmac(prk, CLAW_HASH_SIZE, t3, CLAW_HASH_SIZE, isk, sizeof isk);
    crypto_wipe(k, sizeof k);
    crypto_wipe(isk, sizeof isk);
    return sound;
}

static void make_tag(uint8_t tag[CLAW_KEY_SIZE], const uint8_t prk[CLAW_HASH_SIZE], const char *label,
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

/* k4 or k5. */
static void make_seal_key(const claw_run *run, uint8_t out[CLAW_KEY_SIZE], const uint8_t prk[CLAW_HASH_SIZE],
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

/* Suite 2: puts the ciphertext for the gateway's key into M4. False: the key is not one, or nothing is random. */
static bool encapsulate(claw_sensor *sensor, const claw_m3 *m3, claw_writer *writer)
{
#ifdef CLAW_SUITE2
    uint8_t random[CLAW_KEM_SECRET];
    claw_put_uint(writer, 2);
    uint8_t *ciphertext = claw_put_bytes_later(writer, CLAW_KEM_CIPHERTEXT);
    bool done = claw_random(sensor, random, sizeof random) &&
                claw_kem_encapsulate(ciphertext, sensor->run.kem, m3->kem_key.bytes, random);
    crypto_wipe(random, sizeof random);
    return done;
#else
    (void)sensor;
    (void)m3;
    (void)writer;
    return false;
#endif
}

/* Counts this guess before it is judged. Gives whether the run goes on. */
static bool count_attempt(claw_sensor *sensor, const claw_m3 *m3, uint64_t now_ms)
{
    claw_run *run = &sensor->run;
    if (run->ceremony == CLAW_ISSUED) {
        sensor->window.unanswered++;
        return true;
    }
    sensor->label_attempts += sensor->label_attempts < UINT32_MAX;
    claw_window_wait(sensor, now_ms);
    if (!claw_flash_save(sensor)) {
        run->why = CLAW_NOT_STORED;
        return false;
    }
    if (!claw_same(m3->gateway_tag, run->gateway_tag, CLAW_KEY_SIZE)) {
        run->why = CLAW_WRONG_CODE;
        return false;
    }
    return true;
}

/* Gives whether the run goes on. */
static bool write_m4(claw_sensor *sensor, const claw_m3 *m3, const uint8_t own_tag[CLAW_KEY_SIZE],
                     const uint8_t prk[CLAW_HASH_SIZE])
{
    claw_run *run = &sensor->run;
    uint8_t ad[CLAW_HASH_SIZE], k4[CLAW_KEY_SIZE];
    claw_writer part = claw_write_into(sensor->outbox.message, sizeof sensor->outbox.message);
    claw_put_map(&part, 3);
    claw_put_uint(&part, 1);
    claw_put_bytes(&part, sensor->static_public, CLAW_KEY_SIZE);
    claw_put_uint(&part, 2);
    claw_put_text(&part, sensor->unit.capabilities);
    claw_put_uint(&part, 3);
    claw_put_text(&part, sensor->unit.firmware);

    claw_writer writer = claw_write_into(run->sent, sizeof run->sent);
    claw_put_byte(&writer, CLAW_M4);
    claw_put_map(&writer, run->suite == 2 ? 3 : 2);
    claw_put_uint(&writer, 1);
    claw_put_bytes(&writer, own_tag, CLAW_KEY_SIZE);
    if (run->suite == 2 && !encapsulate(sensor, m3, &writer)) {
        return false;
    }
    make_seal_key(run, k4, prk, "m4");
    make_seal_key(run, run->k5, prk, "m5");
    claw_put_uint(&writer, 3);
    uint8_t *sealed = claw_put_bytes_later(&writer, part.used + CLAW_TAG_SIZE);
    run->sent_size = writer.used;
    memcpy(sealed, part.at, part.used);
    hash_with(ad, run, run->sent, run->sent_size, KEY(3));
    claw_seal(k4, 0, ad, sizeof ad, sealed, part.used);
    crypto_wipe(k4, sizeof k4);
    return true;
}

static bool take_m3(claw_sensor *sensor, const uint8_t *message, size_t size, uint64_t now_ms)
{
    claw_run *run = &sensor->run;
    uint8_t t3[CLAW_HASH_SIZE], prk[CLAW_HASH_SIZE], own_tag[CLAW_KEY_SIZE];
    claw_m3 m3;
    if (!claw_read_m3(&m3, message, size) || (m3.kem_key.bytes != NULL) != (run->suite == 2) ||
        (run->suite == 2 && m3.kem_key.size != CLAW_KEM_KEY) ||
        (m3.gateway_tag != NULL) != (run->ceremony == CLAW_LABEL)) {
        return false;
    }
    hash_with(t3, run, message, size, KEY(3));
    bool goes_on = agree(run, &m3, message, size, t3, prk);
    if (goes_on) {
        make_tag(own_tag, prk, "sensor tag", t3);
        make_tag(run->gateway_tag, prk, "gateway tag", t3);
        claw_expand(run->link, sizeof run->link, prk, "link");
        goes_on = count_attempt(sensor, &m3, now_ms);
    }
    if (goes_on) {
        crypto_wipe(run->scalar, sizeof run->scalar);
        claw_hash_lv(&run->transcript, message, size);
        goes_on = write_m4(sensor, &m3, own_tag, prk);
    }
    if (goes_on) {
        claw_hash_lv(&run->transcript, run->sent, run->sent_size);
    }
    crypto_wipe(prk, sizeof prk);
    return goes_on;
}

/* The root of all keys that last. False: the shared secret of the statics is all zero. */
static bool make_root(const claw_sensor *sensor, const uint8_t *gateway_static, uint8_t root[CLAW_HASH_SIZE])
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

static void make_mac(uint8_t mac[MAC_SIZE], const uint8_t root[CLAW_HASH_SIZE], const char *label,
                     const uint8_t hash[CLAW_HASH_SIZE])
{
    uint8_t key[CLAW_HASH_SIZE];
    claw_expand(key, sizeof key, root, label);
    claw_hmac(mac, MAC_SIZE, key, sizeof key, hash, CLAW_HASH_SIZE);
    crypto_wipe(key, sizeof key);
}

/* Stores the new key as pending, and the label's count of zero with it, in one write. */
static bool keep(claw_sensor *sensor, const uint8_t root[CLAW_HASH_SIZE], const uint8_t *gateway_static)
{
    claw_slot *slot = &sensor->slots[CLAW_PENDING];
    claw_slot before = *slot;
    uint32_t attempts = sensor->label_attempts;
    sensor->label_attempts = 0;
    slot->present = true;
    claw_expand(slot->psk, sizeof slot->psk, root, "noise psk");
    claw_expand(slot->key_id_key, sizeof slot->key_id_key, root, "key-id key");
    claw_expand(slot->key_id, sizeof slot->key_id, root, "key id");
    claw_expand(slot->pairing_id, sizeof slot->pairing_id, root, "pairing id");
    claw_expand(slot->advertising_key, sizeof slot->advertising_key, root, "advertising key");
    memcpy(slot->gateway_static, gateway_static, CLAW_KEY_SIZE);
    memset(slot->gateway_id, 0, sizeof slot->gateway_id);
    memcpy(slot->gateway_id, sensor->run.gateway_id, strlen(sensor->run.gateway_id));
    bool saved = claw_flash_save(sensor);
    if (!saved) {
        *slot = before;
        sensor->label_attempts = attempts;
        sensor->run.why = CLAW_NOT_STORED;
    } else if (sensor->sessions.pending.slot == CLAW_PENDING) {
        crypto_wipe(&sensor->sessions.pending, sizeof sensor->sessions.pending);
    }
    crypto_wipe(&before, sizeof before);
    return saved;
}

static void write_m6(claw_run *run, const uint8_t mac[MAC_SIZE])
{
    claw_writer writer = claw_write_into(run->sent, sizeof run->sent);
    claw_put_byte(&writer, CLAW_M6);
    claw_put_map(&writer, 1);
    claw_put_uint(&writer, 1);
    claw_put_bytes(&writer, mac, MAC_SIZE);
    run->sent_size = writer.used;
}

/* Checks M5 in the order that the protocol asks for. `sealed` is the part, opened in place here. */
static bool take_m5(claw_sensor *sensor, uint8_t *message, size_t size, uint64_t now_ms)
{
    claw_run *run = &sensor->run;
    uint8_t ad[CLAW_HASH_SIZE], before_mac[CLAW_HASH_SIZE], whole[CLAW_HASH_SIZE];
    claw_m5 m5;
    if (!claw_read_m5(&m5, message, size) || (m5.gateway_tag != NULL) != (run->ceremony == CLAW_ISSUED)) {
        return false;
    }
    if (m5.gateway_tag != NULL) {
        if (!claw_same(m5.gateway_tag, run->gateway_tag, CLAW_KEY_SIZE)) {
            run->why = CLAW_WRONG_CODE;
            return false;
        }
        sensor->window.unanswered = 0;
    }
    hash_with(ad, run, message, size, KEY(2) | KEY(3));
    hash_with(before_mac, run, message, size, KEY(3));
    hash_with(whole, run, message, size, 0); /* the part is opened in place below, so this cannot wait */

    uint8_t *sealed = message + (m5.part.bytes - message);
    claw_m5_part part;
    if (!claw_open(run->k5, 0, ad, sizeof ad, sealed, m5.part.size) ||
        !claw_read_m5_part(&part, sealed, m5.part.size - CLAW_TAG_SIZE) ||
        claw_same(part.gateway_static, sensor->static_public, CLAW_KEY_SIZE)) {
        return false;
    }
    uint8_t root[CLAW_HASH_SIZE], mac[MAC_SIZE];
    bool good = make_root(sensor, part.gateway_static, root);
    make_mac(mac, root, "m5 mac", before_mac);
    good = good && claw_same(mac, m5.mac, MAC_SIZE) && keep(sensor, root, part.gateway_static);
    if (good) {
        make_mac(mac, root, "m6 mac", whole);
        write_m6(run, mac);
        claw_window_wait(sensor, now_ms);
        claw_window_close(sensor);
        claw_tell(sensor, CLAW_PAIRED, (uint32_t)part.settings.size);
    }
    crypto_wipe(root, sizeof root);
    return good;
}

/* Which of the three messages this is: 0, 1, 2. */
static unsigned number_of(uint8_t type)
{
    return type == CLAW_M1 ? 0 : type == CLAW_M3 ? 1 : 2;
}

void claw_pairing_take(claw_sensor *sensor, uint8_t *message, size_t size, uint64_t now_ms)
{
    claw_run *run = &sensor->run;
    unsigned stage = (unsigned)run->stage; /* that many messages were taken */
    if (message[0] == CLAW_REFUSE) {
        if (stage != CLAW_RUN_SENT_M6) {
            claw_pairing_end(sensor, false, CLAW_REFUSED);
        }
        return;
    }
    unsigned number = number_of(message[0]);
    uint8_t digest[CLAW_HASH_SIZE];
    crypto_sha512(digest, message, size);
    if (number < stage) {
        if (!claw_same(digest, run->heard[number], sizeof run->heard[number])) {
            disturbed(sensor);
        } else if (number + 1 == stage) {
            answer(sensor);
        }
        return;
    }
    if (number > stage) {
        disturbed(sensor); /* a step was left out */
        return;
    }
    bool taken = number == 0   ? take_m1(sensor, message, size, now_ms)
                 : number == 1 ? take_m3(sensor, message, size, now_ms)
                               : take_m5(sensor, message, size, now_ms);
    if (!taken) {
        claw_pairing_end(sensor, true, (claw_failure)run->why);
        return;
    }
    memcpy(run->heard[number], digest, sizeof run->heard[number]);
    run->stage = (claw_run_stage)(stage + 1);
    answer(sensor);
}
