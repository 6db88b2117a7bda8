#include "pairing.h"

#include <string.h>

#include "message.h"
#include "schedule.h"
#include "sensor.h"

#define RUN_MS 10000
#define TAGS_UNANSWERED_MAX 3

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
static uint8_t choose_suite(const claw_sensor *sensor, claw_slice offered)
{
    claw_slice own = claw_suites(sensor);
    for (size_t i = own.size; i-- > 0;) {
        if (memchr(offered.bytes, own.bytes[i], offered.size) != NULL) {
            return own.bytes[i];
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
    run->suite = choose_suite(sensor, m1.suites);
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
    claw_make_share(sensor, h1, share);
    write_m2(sensor, share);
    crypto_sha512_init(&run->transcript);
    claw_hash_lv(&run->transcript, message, size);
    claw_hash_lv(&run->transcript, run->sent, run->sent_size);
    return true;
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
    claw_put_map(&part, sensor->unit.certificate_size > 0 ? 4 : 3);
    claw_put_uint(&part, 1);
    claw_put_bytes(&part, sensor->static_public, CLAW_KEY_SIZE);
    claw_put_uint(&part, 2);
    claw_put_text(&part, sensor->unit.capabilities);
    claw_put_uint(&part, 3);
    claw_put_text(&part, sensor->unit.firmware);
    if (sensor->unit.certificate_size > 0) {
        claw_put_uint(&part, 4);
        claw_put_bytes(&part, sensor->unit.certificate, sensor->unit.certificate_size);
    }

    claw_writer writer = claw_write_into(run->sent, sizeof run->sent);
    claw_put_byte(&writer, CLAW_M4);
    claw_put_map(&writer, run->suite == 2 ? 3 : 2);
    claw_put_uint(&writer, 1);
    claw_put_bytes(&writer, own_tag, CLAW_KEY_SIZE);
    if (run->suite == 2 && !encapsulate(sensor, m3, &writer)) {
        return false;
    }
    claw_make_seal_key(run, k4, prk, "m4");
    claw_make_seal_key(run, run->k5, prk, "m5");
    claw_put_uint(&writer, 3);
    uint8_t *sealed = claw_put_bytes_later(&writer, part.used + CLAW_TAG_SIZE);
    run->sent_size = writer.used;
    memcpy(sealed, part.at, part.used);
    claw_hash_with(ad, run, run->sent, run->sent_size, CLAW_WITHOUT(3));
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
    claw_hash_with(t3, run, message, size, CLAW_WITHOUT(3));
    bool goes_on = claw_agree(run, &m3, message, size, t3, prk);
    if (goes_on) {
        claw_make_tag(own_tag, prk, "sensor tag", t3);
        claw_make_tag(run->gateway_tag, prk, "gateway tag", t3);
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

static void write_m6(claw_run *run, const uint8_t mac[CLAW_MAC_SIZE])
{
    claw_writer writer = claw_write_into(run->sent, sizeof run->sent);
    claw_put_byte(&writer, CLAW_M6);
    claw_put_map(&writer, 1);
    claw_put_uint(&writer, 1);
    claw_put_bytes(&writer, mac, CLAW_MAC_SIZE);
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
    claw_hash_with(ad, run, message, size, CLAW_WITHOUT(2) | CLAW_WITHOUT(3));
    claw_hash_with(before_mac, run, message, size, CLAW_WITHOUT(3));
    claw_hash_with(whole, run, message, size, 0); /* the part is opened in place below, so this cannot wait */

    uint8_t *sealed = message + (m5.part.bytes - message);
    claw_m5_part part;
    if (!claw_open(run->k5, 0, ad, sizeof ad, sealed, m5.part.size) ||
        !claw_read_m5_part(&part, sealed, m5.part.size - CLAW_TAG_SIZE) ||
        claw_same(part.gateway_static, sensor->static_public, CLAW_KEY_SIZE)) {
        return false;
    }
    uint8_t root[CLAW_HASH_SIZE], mac[CLAW_MAC_SIZE];
    bool good = claw_make_root(sensor, part.gateway_static, root);
    claw_make_mac(mac, root, "m5 mac", before_mac);
    good = good && claw_same(mac, m5.mac, CLAW_MAC_SIZE) && keep(sensor, root, part.gateway_static);
    if (good) {
        claw_make_mac(mac, root, "m6 mac", whole);
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
