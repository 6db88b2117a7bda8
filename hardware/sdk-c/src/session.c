#include "session.h"

#include <string.h>

#include "noise.h"
#include "sensor.h"

#define PENDING_KEPT_MS 2000
#define COUNTER_NEVER 0xffffffffu
#define TAG_AT 2
#define NOISE_AT 10

static void prologue(crypto_sha512_ctx *hash, const claw_sensor *sensor, const claw_slot *slot, uint8_t index)
{
    /* Noise hashes the prologue as it is: this is the concatenation itself. */
    uint8_t version = CLAW_VERSION;
    claw_hash_lv(hash, "claw-session", 12);
    claw_hash_lv(hash, &version, 1);
    claw_hash_names(hash, sensor, slot->gateway_id);
    claw_hash_lv(hash, slot->key_id, sizeof slot->key_id);
    claw_hash_lv(hash, &index, 1);
}

/* The slot whose tag this is: the pending one is asked first. CLAW_SLOTS: neither. Costs no X25519. */
static uint8_t slot_of(const claw_sensor *sensor, const uint8_t *message)
{
    uint8_t input[CLAW_KEY_SIZE + 1];
    memcpy(input, message + NOISE_AT, CLAW_KEY_SIZE);
    input[CLAW_KEY_SIZE] = message[1];
    static const uint8_t order[CLAW_SLOTS] = {CLAW_PENDING, CLAW_CURRENT};
    for (size_t i = 0; i < CLAW_SLOTS; i++) {
        const claw_slot *slot = &sensor->slots[order[i]];
        uint8_t tag[8];
        claw_hmac(tag, sizeof tag, slot->key_id_key, CLAW_KEY_SIZE, input, sizeof input);
        if (slot->present && claw_same(tag, message + TAG_AT, sizeof tag)) {
            return order[i];
        }
    }
    return CLAW_SLOTS;
}

static bool was_taken(const claw_sessions *sessions, const uint8_t *tag)
{
    for (size_t i = 0; i < sessions->tags_used; i++) {
        if (memcmp(sessions->tags[i], tag, 8) == 0) {
            return true;
        }
    }
    return false;
}

static void remember(claw_sessions *sessions, const uint8_t *tag)
{
    memcpy(sessions->tags[sessions->tags_next], tag, 8);
    sessions->tags_next = (uint8_t)((sessions->tags_next + 1) % CLAW_TAGS_KEPT);
    if (sessions->tags_used < CLAW_TAGS_KEPT) {
        sessions->tags_used++;
    }
}

static void answer(claw_sensor *sensor)
{
    memcpy(sensor->outbox.message, sensor->sessions.answer, CLAW_HANDSHAKE2_SIZE);
    claw_send(sensor, CLAW_HANDSHAKE2_SIZE);
}

/* Takes Noise message 1, writes Handshake2, and derives the keys of `session`. */
static bool agree(claw_sensor *sensor, const claw_slot *slot, const uint8_t *message, claw_session *session)
{
    claw_noise noise;
    crypto_sha512_ctx hash;
    uint8_t ephemeral[CLAW_KEY_SIZE], first[CLAW_KEY_SIZE + CLAW_TAG_SIZE];
    uint8_t *out = sensor->sessions.answer;
    claw_noise_keys keys = {sensor->static_secret, sensor->static_public, slot->gateway_static, slot->psk};

    memcpy(first, message + NOISE_AT, sizeof first);
    claw_noise_begin(&noise, &hash);
    prologue(&hash, sensor, slot, message[1]);
    claw_noise_statics(&noise, &hash, &keys);
    bool agreed = claw_noise_take(&noise, &keys, first, sizeof first) && claw_random(sensor, ephemeral, sizeof ephemeral);
    if (agreed) {
        out[0] = CLAW_HANDSHAKE2;
        out[1] = message[1];
        agreed = claw_noise_give(&noise, &keys, ephemeral, out + 2, CLAW_HANDSHAKE2_SIZE - 2);
    }
    if (agreed) {
        claw_noise_split(&noise, session->from_gateway, session->to_gateway);
    }
    crypto_wipe(ephemeral, sizeof ephemeral);
    crypto_wipe(&noise, sizeof noise);
    return agreed;
}

void claw_session_handshake(claw_sensor *sensor, uint8_t *message, size_t size, uint64_t now_ms)
{
    claw_sessions *sessions = &sensor->sessions;
    if (size != CLAW_HANDSHAKE1_SIZE) {
        return;
    }
    if (sessions->pending.present && claw_same(message, sessions->heard, size)) {
        answer(sensor);
        return;
    }
    uint8_t slot = slot_of(sensor, message);
    bool repeated = was_taken(sessions, message + TAG_AT) ||
                    (sessions->live.present && sessions->live.index == message[1]);
    bool too_soon = sessions->pending.present && now_ms < sessions->pending_since_ms + PENDING_KEPT_MS;
    if (slot == CLAW_SLOTS || repeated || too_soon) {
        return;
    }
    claw_session session = {0};
    session.present = true;
    session.index = message[1];
    session.slot = slot;
    uint8_t kept[CLAW_HANDSHAKE2_SIZE];
    memcpy(kept, sessions->answer, sizeof kept);
    if (!agree(sensor, &sensor->slots[slot], message, &session)) {
        memcpy(sessions->answer, kept, sizeof kept);
        return;
    }
    sessions->pending = session;
    sessions->pending_since_ms = now_ms;
    memcpy(sessions->heard, message, size);
    remember(sessions, message + TAG_AT);
    crypto_wipe(&session, sizeof session);
    answer(sensor);
}

static bool may_take(const claw_session *session, uint32_t counter)
{
    if (counter == COUNTER_NEVER) {
        return false;
    }
    if (session->taken == 0 || counter > session->highest) {
        return true;
    }
    uint32_t behind = session->highest - counter;
    return behind < 64 && (session->taken >> behind & 1) == 0;
}

static void mark_taken(claw_session *session, uint32_t counter)
{
    if (session->taken == 0 || counter > session->highest) {
        uint32_t ahead = session->taken == 0 ? 0 : counter - session->highest;
        session->taken = ahead < 64 ? session->taken << ahead | 1 : 1;
        session->highest = counter;
    } else {
        session->taken |= (uint64_t)1 << (session->highest - counter);
    }
}

static bool open_in(claw_session *session, uint8_t *message, size_t size)
{
    uint32_t counter = (uint32_t)message[2] << 24 | (uint32_t)message[3] << 16 | (uint32_t)message[4] << 8 | message[5];
    bool opened = session->present && session->index == message[1] && may_take(session, counter) &&
                  claw_open(session->from_gateway, counter, message, CLAW_RECORD_HEAD, message + CLAW_RECORD_HEAD,
                            size - CLAW_RECORD_HEAD);
    if (opened) {
        mark_taken(session, counter);
    }
    return opened;
}

/* The pending session proved itself: it takes over, and so does its key. */
static void take_over(claw_sensor *sensor)
{
    claw_sessions *sessions = &sensor->sessions;
    if (sessions->pending.slot == CLAW_PENDING) {
        sensor->slots[CLAW_CURRENT] = sensor->slots[CLAW_PENDING];
        crypto_wipe(&sensor->slots[CLAW_PENDING], sizeof(claw_slot));
        sessions->pending.slot = CLAW_CURRENT;
        claw_tell(sensor, CLAW_KEY_PROVEN, 0);
        /* If this store fails, both keys stay in flash, and the next start promotes again. */
        claw_flash_save(sensor);
    }
    sessions->live = sessions->pending;
    crypto_wipe(&sessions->pending, sizeof sessions->pending);
}

uint8_t *claw_session_open(claw_sensor *sensor, uint8_t *message, size_t size, size_t *text_size, bool *began)
{
    claw_sessions *sessions = &sensor->sessions;
    *began = false;
    if (size < CLAW_RECORD_HEAD + CLAW_TAG_SIZE) {
        return NULL;
    }
    if (!open_in(&sessions->live, message, size)) {
        if (!open_in(&sessions->pending, message, size)) {
            return NULL;
        }
        take_over(sensor);
        *began = true;
    }
    *text_size = size - CLAW_RECORD_HEAD - CLAW_TAG_SIZE;
    return message + CLAW_RECORD_HEAD;
}

uint8_t *claw_session_text(claw_sensor *sensor)
{
    return sensor->outbox.message + CLAW_RECORD_HEAD;
}

bool claw_session_send(claw_sensor *sensor, size_t text_size)
{
    claw_session *live = &sensor->sessions.live;
    if (!live->present || live->next_sent == COUNTER_NEVER) {
        return false;
    }
    uint8_t *message = sensor->outbox.message;
    uint32_t counter = live->next_sent++; /* used up, even if the line does not take it */
    message[0] = CLAW_RECORD;
    message[1] = live->index;
    for (size_t i = 0; i < 4; i++) {
        message[2 + i] = (uint8_t)(counter >> (24 - 8 * i));
    }
    claw_seal(live->to_gateway, counter, message, CLAW_RECORD_HEAD, message + CLAW_RECORD_HEAD, text_size);
    return claw_send(sensor, CLAW_RECORD_HEAD + text_size + CLAW_TAG_SIZE);
}

void claw_session_end(claw_sensor *sensor)
{
    if (sensor->sessions.live.present) {
        crypto_wipe(&sensor->sessions.live, sizeof(claw_session));
        claw_tell(sensor, CLAW_SESSION_ENDED, 0);
    }
}
