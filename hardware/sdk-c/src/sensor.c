#include "sensor.h"

#include <string.h>

#include "cbor.h"
#include "message.h"

#define IDENTIFY_EVERY_MS 10000

bool claw_random(claw_sensor *sensor, void *out, size_t size)
{
    return sensor->board.random(sensor->board.context, out, size);
}

void claw_tell(claw_sensor *sensor, claw_event event, uint32_t value)
{
    if (sensor->board.event != NULL) {
        sensor->board.event(sensor->board.context, event, value);
    }
}

/* BLE: the message in values of at most `value_max` bytes, each behind its header byte. */
bool claw_send_rest(claw_sensor *sensor)
{
    uint8_t *message = (uint8_t *)&sensor->outbox + offsetof(claw_outbox, message);
    size_t piece = sensor->value_max - 1u;
    while (sensor->rest_size > 0) {
        size_t length = sensor->rest_size < piece ? sensor->rest_size : piece;
        uint8_t *value = message + sensor->rest_at - 1; /* lies ahead of the message, or was sent already */
        *value = (uint8_t)((sensor->rest_at == 0 ? 0x80 : 0) | (length == sensor->rest_size ? 0x40 : 0) |
                           (sensor->rest_index & 0x3f));
        if (!sensor->board.send(sensor->board.context, value, 1 + length)) {
            return false;
        }
        sensor->rest_at += length;
        sensor->rest_size -= length;
        sensor->rest_index++;
    }
    return true;
}

bool claw_send(claw_sensor *sensor, size_t size)
{
    if (sensor->unit.link == CLAW_BLE) {
        sensor->rest_at = 0;
        sensor->rest_size = size;
        sensor->rest_index = 0;
        claw_send_rest(sensor);
        return true;
    }
    size_t frame_size;
    const uint8_t *frame = claw_outbox_frame(&sensor->outbox, size, &frame_size);
    return sensor->board.send(sensor->board.context, frame, frame_size);
}

void claw_refuse(claw_sensor *sensor)
{
    sensor->outbox.message[0] = CLAW_REFUSE;
    sensor->outbox.message[1] = 0xa0;
    claw_send(sensor, 2);
}

static const char *link_name(const claw_sensor *sensor)
{
    return sensor->unit.link == CLAW_BLE ? "ble" : "uart";
}

size_t claw_names_size(const claw_sensor *sensor, const char *gateway_id)
{
    return 1 + 6 + strlen(sensor->unit.device_id) + 1 + 7 + strlen(gateway_id) + 1 + strlen(link_name(sensor));
}

void claw_hash_names(crypto_sha512_ctx *hash, const claw_sensor *sensor, const char *gateway_id)
{
    claw_hash_lv2(hash, "sensor", 6, sensor->unit.device_id, strlen(sensor->unit.device_id));
    claw_hash_lv2(hash, "gateway", 7, gateway_id, strlen(gateway_id));
    claw_hash_lv(hash, link_name(sensor), strlen(link_name(sensor)));
}

static bool is_text(const char *text, size_t max)
{
    size_t size = strlen(text);
    return size <= max && claw_is_text((const uint8_t *)text, size);
}

static bool is_unit_sound(const claw_unit *unit)
{
    uint8_t prs[CLAW_PRS_SIZE];
    return claw_is_id((const uint8_t *)unit->device_id, strlen(unit->device_id)) &&
           is_text(unit->name, CLAW_NAME_MAX) && is_text(unit->firmware, CLAW_NAME_MAX) &&
           is_text(unit->capabilities, CLAW_CAPABILITIES_MAX) &&
           (unit->label == NULL || claw_code_parse(unit->label, prs)) && unit->queue != NULL && unit->queue_size > 0 &&
           unit->certificate_size <= CLAW_CERTIFICATE_MAX && (unit->certificate != NULL || unit->certificate_size == 0);
}

/* A unit as it left the factory has a new static key and no pairing. */
claw_status claw_forget(claw_sensor *sensor)
{
    uint8_t secret[CLAW_KEY_SIZE];
    if (!claw_random(sensor, secret, sizeof secret)) {
        return CLAW_NO_RANDOM;
    }
    if (!claw_flash_save_new(sensor, secret)) {
        crypto_wipe(secret, sizeof secret);
        return CLAW_NO_FLASH;
    }
    memcpy(sensor->static_secret, secret, sizeof secret);
    crypto_x25519_public_key(sensor->static_public, sensor->static_secret);
    crypto_wipe(secret, sizeof secret);
    crypto_wipe(sensor->slots, sizeof sensor->slots);
    crypto_wipe(&sensor->sessions.pending, sizeof sensor->sessions.pending);
    sensor->label_attempts = 0;
    claw_pairing_end(sensor, false, CLAW_CANCELLED);
    claw_window_close(sensor);
    return CLAW_OK;
}

claw_status claw_start(claw_sensor *sensor, const claw_board *board, const claw_unit *unit, const uint8_t *flash,
                       uint64_t now_ms)
{
    memset(sensor, 0, sizeof *sensor);
    sensor->board = *board;
    sensor->unit = *unit;
    sensor->value_max = 20;
    if (!is_unit_sound(unit)) {
        sensor->status = CLAW_BAD_UNIT;
    } else if (flash == NULL) {
        sensor->status = claw_forget(sensor);
    } else if (!claw_flash_load(sensor, flash)) {
        sensor->status = CLAW_BAD_FLASH;
    } else {
        crypto_x25519_public_key(sensor->static_public, sensor->static_secret);
    }
    if (sensor->status == CLAW_OK && !claw_telemetry_reset(sensor)) {
        sensor->status = CLAW_NO_RANDOM;
    }
    claw_window_wait(sensor, now_ms);
    return sensor->status;
}

claw_status claw_factory_reset(claw_sensor *sensor, uint64_t now_ms)
{
    if (sensor->status == CLAW_BAD_UNIT) {
        return CLAW_BAD_UNIT;
    }
    claw_status status = claw_forget(sensor);
    if (status != CLAW_OK) {
        return status;
    }
    claw_session_end(sensor);
    crypto_wipe(&sensor->sessions, sizeof sensor->sessions);
    claw_window_wait(sensor, now_ms);
    sensor->status = claw_telemetry_reset(sensor) ? CLAW_OK : CLAW_NO_RANDOM;
    return sensor->status;
}

void claw_connected(claw_sensor *sensor, uint16_t value_max)
{
    memset(&sensor->inbox, 0, sizeof sensor->inbox);
    sensor->rest_size = 0;
    sensor->value_max = value_max < 20 ? 20 : value_max > 512 ? 512 : value_max;
}

claw_status claw_button(claw_sensor *sensor, uint64_t now_ms)
{
    if (sensor->status != CLAW_OK) {
        return sensor->status;
    }
    if (sensor->label_attempts > 0) {
        uint32_t attempts = sensor->label_attempts;
        sensor->label_attempts = 0;
        if (!claw_flash_save(sensor)) {
            sensor->label_attempts = attempts;
            return CLAW_NO_FLASH;
        }
    }
    claw_window_wait(sensor, now_ms);
    return claw_window_open_label(sensor, CLAW_WINDOW_S, now_ms);
}

claw_status claw_enter_code(claw_sensor *sensor, const char *code, uint64_t now_ms)
{
    uint8_t prs[CLAW_PRS_SIZE];
    if (sensor->status != CLAW_OK) {
        return sensor->status;
    }
    if (!claw_code_parse(code, prs)) {
        return CLAW_BAD_CODE;
    }
    claw_status status = claw_window_open(sensor, CLAW_ISSUED, prs, CLAW_WINDOW_S, now_ms);
    crypto_wipe(prs, sizeof prs);
    return status;
}

bool claw_is_paired(const claw_sensor *sensor)
{
    return sensor->slots[CLAW_CURRENT].present || sensor->slots[CLAW_PENDING].present;
}

static uint32_t window_seconds(const claw_window *window, uint64_t now_ms)
{
    bool open = window->ceremony != CLAW_CLOSED && window->until_ms > now_ms;
    return open ? (uint32_t)((window->until_ms - now_ms + 999) / 1000) : 0;
}

claw_state claw_look(const claw_sensor *sensor, uint64_t now_ms)
{
    const claw_slot *slot = &sensor->slots[sensor->slots[CLAW_PENDING].present ? CLAW_PENDING : CLAW_CURRENT];
    claw_state state = {0};
    if (slot->present) {
        state.gateway = slot->gateway_id;
        for (size_t i = 0; i < sizeof slot->pairing_id; i++) {
            state.pairing_id = state.pairing_id << 8 | slot->pairing_id[i];
        }
    }
    state.connected = sensor->sessions.live.present;
    state.clock_set = sensor->telemetry.clock_set;
    state.window = (uint8_t)sensor->window.ceremony;
    state.window_s = window_seconds(&sensor->window, now_ms);
    state.label_attempts = sensor->label_attempts;
    state.epoch = sensor->telemetry.epoch;
    state.made = sensor->telemetry.made;
    return state;
}

/* 3 random bytes, and 5 of their HMAC. */
bool claw_rotating_id(claw_sensor *sensor, bool on_air, uint8_t id[CLAW_ROTATING_ID_SIZE])
{
    const claw_slot *slots = sensor->slots;
    bool both = slots[CLAW_CURRENT].present && slots[CLAW_PENDING].present;
    bool *show_pending = &sensor->show_pending[on_air];
    *show_pending = both ? !*show_pending : slots[CLAW_PENDING].present;
    const claw_slot *slot = &slots[*show_pending ? CLAW_PENDING : CLAW_CURRENT];
    if (!claw_random(sensor, id, 3)) {
        return false;
    }
    claw_hmac(id + 3, 5, slot->advertising_key, CLAW_KEY_SIZE, id, 3);
    return true;
}

claw_slice claw_suites(const claw_sensor *sensor)
{
    static const uint8_t suites[] = CLAW_SUITES;
    claw_slice own = {suites, sizeof suites};
    while (own.size > 1 && sensor->unit.max_suite > 0 && suites[own.size - 1] > sensor->unit.max_suite) {
        own.size--;
    }
    return own;
}

static void answer_probe(claw_sensor *sensor, uint64_t now_ms)
{
    claw_slice suites = claw_suites(sensor);
    const claw_window *window = &sensor->window;
    bool paired = claw_is_paired(sensor), open = window->ceremony != CLAW_CLOSED;
    bool named = !paired || open;
    uint8_t rotating_id[CLAW_ROTATING_ID_SIZE];
    if (paired && !claw_rotating_id(sensor, false, rotating_id)) {
        return;
    }
    claw_writer writer = claw_write_into(sensor->outbox.message, CLAW_MESSAGE_MAX);
    claw_put_byte(&writer, CLAW_IDENT);
    claw_put_map(&writer, 4u + (named ? 2 : 0) + paired + open);
    claw_put_uint(&writer, 1);
    claw_put_uint(&writer, CLAW_VERSION);
    claw_put_uint(&writer, 2);
    claw_put_bool(&writer, paired);
    if (named) {
        claw_put_uint(&writer, 3);
        claw_put_text(&writer, sensor->unit.device_id);
    }
    if (paired) {
        claw_put_uint(&writer, 4);
        claw_put_bytes(&writer, rotating_id, sizeof rotating_id);
    }
    if (named) {
        claw_put_uint(&writer, 5);
        claw_put_text(&writer, sensor->unit.name);
    }
    claw_put_uint(&writer, 6);
    claw_put_bytes(&writer, suites.bytes, suites.size);
    claw_put_uint(&writer, 7);
    claw_put_uint(&writer, CLAW_MESSAGE_MAX);
    if (open) {
        claw_put_uint(&writer, 8);
        claw_put_map(&writer, 3);
        claw_put_uint(&writer, 1);
        claw_put_uint(&writer, window->ceremony);
        claw_put_uint(&writer, 2);
        claw_put_uint(&writer, window_seconds(window, now_ms));
        claw_put_uint(&writer, 3);
        claw_put_uint(&writer, window->id);
    }
    claw_send(sensor, writer.used);
}

bool claw_blink(claw_sensor *sensor, uint64_t seconds, uint64_t now_ms)
{
    if (now_ms < sensor->identify_again_ms) {
        return false;
    }
    sensor->identify_again_ms = now_ms + IDENTIFY_EVERY_MS;
    claw_tell(sensor, CLAW_BLINK, (uint32_t)(seconds > CLAW_BLINK_MAX_S ? CLAW_BLINK_MAX_S : seconds));
    return true;
}

/* A map whose key 1 is a number, as Probe and Identify have it. */
static bool read_one_number(const uint8_t *message, size_t size, uint64_t *number)
{
    claw_reader reader = claw_read_from(message + 1, size - 1);
    claw_map map = claw_get_map(&reader);
    bool seen = false;
    for (int64_t key; claw_next_key(&map, &key);) {
        if (key == 1) {
            *number = claw_get_uint(&reader);
            seen = true;
        } else {
            claw_skip(&reader);
        }
    }
    return claw_read_all(&reader) && seen;
}

static void take_record(claw_sensor *sensor, uint8_t *message, size_t size, uint64_t now_ms)
{
    size_t text_size;
    bool began;
    uint8_t *text = claw_session_open(sensor, message, size, &text_size, &began);
    if (text == NULL) {
        return;
    }
    if (began) {
        claw_telemetry_begin(sensor);
        claw_tell(sensor, CLAW_SESSION, 0);
    }
    claw_telemetry_take(sensor, text, text_size, now_ms);
    claw_telemetry_poll(sensor, now_ms);
}

static void take_message(claw_sensor *sensor, uint8_t *message, size_t size, uint64_t now_ms)
{
    uint64_t number = 0;
    switch (message[0]) {
    case CLAW_PROBE:
    case CLAW_IDENTIFY:
        if (!read_one_number(message, size, &number)) {
            return;
        }
        if (message[0] == CLAW_PROBE) {
            answer_probe(sensor, now_ms);
        } else {
            claw_blink(sensor, number, now_ms);
        }
        return;
    case CLAW_M1:
    case CLAW_M3:
    case CLAW_M5:
    case CLAW_REFUSE:
        claw_pairing_take(sensor, message, size, now_ms);
        return;
    case CLAW_HANDSHAKE1:
        claw_session_handshake(sensor, message, size, now_ms);
        return;
    case CLAW_RECORD:
        take_record(sensor, message, size, now_ms);
        return;
    default:
        return; /* unknown, or an echo of what only a sensor sends */
    }
}

/* The window and the run end by themselves. Gives when the next one does. */
static uint64_t expire(claw_sensor *sensor, uint64_t now_ms)
{
    uint64_t next_ms = UINT64_MAX;
    if (sensor->window.ceremony != CLAW_CLOSED && now_ms >= sensor->window.until_ms) {
        claw_pairing_end(sensor, false, CLAW_TIME_OVER);
        claw_window_close(sensor);
    }
    if (sensor->run.stage != CLAW_RUN_NONE && now_ms >= sensor->run.until_ms) {
        claw_pairing_end(sensor, false, CLAW_TIME_OVER);
    }
    if (sensor->window.ceremony != CLAW_CLOSED) {
        next_ms = sensor->window.until_ms;
    }
    if (sensor->run.stage != CLAW_RUN_NONE) {
        next_ms = claw_earlier(next_ms, sensor->run.until_ms);
    }
    return next_ms;
}

void claw_receive(claw_sensor *sensor, const uint8_t *bytes, size_t size, uint64_t now_ms)
{
    if (sensor->status != CLAW_OK) {
        return;
    }
    expire(sensor, now_ms);
    if (sensor->unit.link == CLAW_BLE) {
        size_t message = claw_inbox_value(&sensor->inbox, bytes, size);
        if (message > 0) {
            take_message(sensor, sensor->inbox.bytes, message, now_ms);
        }
        return;
    }
    for (size_t i = 0; i < size; i++) {
        size_t message = claw_inbox_byte(&sensor->inbox, bytes[i]);
        if (message > 0) {
            take_message(sensor, sensor->inbox.bytes, message, now_ms);
        }
    }
}

uint64_t claw_poll(claw_sensor *sensor, uint64_t now_ms)
{
    if (sensor->status != CLAW_OK) {
        return UINT64_MAX;
    }
    uint64_t next_ms = expire(sensor, now_ms);
    return claw_earlier(next_ms, claw_telemetry_poll(sensor, now_ms));
}
