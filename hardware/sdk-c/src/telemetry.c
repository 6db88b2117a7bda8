#include "telemetry.h"

#include <string.h>

#include "cbor.h"
#include "queue.h"
#include "sensor.h"

enum {
    READINGS = 0x40,
    ACK = 0x41,
    GAP = 0x42,
    TIME = 0x43,
    COMMAND = 0x44,
    REPLY = 0x45,
    HELLO = 0x46,
    BYE = 0x47,
};
enum { DO_IDENTIFY = 1, DO_OPEN_WINDOW = 2, DO_UNPAIR = 3 };
enum { DONE = 0, REFUSED = 1, NOT_NOW = 2 };
enum { MEMORY_FULL = 0 };

#define WAIT_FIRST_S 3
#define WAIT_MAX_S 30
#define GO_BACK_EVERY_MS 1000
#define LINE_BUSY_MS 2
#define MOST_MAX 4096 /* more readings than any record holds */
#define TIME_MAX_MS UINT64_C(253402300799999) /* the end of the year 9999 */

bool claw_telemetry_reset(claw_sensor *sensor)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    claw_telemetry fresh = {0};
    fresh.clock_set = telemetry->clock_set;
    fresh.clock_offset_ms = telemetry->clock_offset_ms;
    fresh.first = 1;
    fresh.next = 1;
    fresh.wait_ms = WAIT_FIRST_S * 1000;
    do {
        if (!claw_random(sensor, &fresh.epoch, sizeof fresh.epoch)) {
            return false;
        }
    } while (fresh.epoch == 0);
    *telemetry = fresh;
    return true;
}

void claw_telemetry_begin(claw_sensor *sensor)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    telemetry->hello = CLAW_HELLO_DUE;
    telemetry->hello_wait_s = WAIT_FIRST_S;
    telemetry->in_flight = false;
    telemetry->one_only = false;
    telemetry->reply_due = false;
    telemetry->most = 0;
}

static claw_writer begin_text(claw_sensor *sensor, uint8_t type, size_t entries)
{
    claw_writer writer = claw_write_into(claw_session_text(sensor), CLAW_RECORD_TEXT_MAX);
    claw_put_byte(&writer, type);
    claw_put_map(&writer, entries);
    return writer;
}

static bool say_hello(claw_sensor *sensor, uint64_t now_ms)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    claw_writer writer = begin_text(sensor, HELLO, 5);
    claw_put_uint(&writer, 1);
    claw_put_uint(&writer, telemetry->epoch);
    claw_put_uint(&writer, 2);
    claw_put_uint(&writer, telemetry->safe + 1); /* from here on it either holds a reading or owes a Gap */
    claw_put_uint(&writer, 3);
    claw_put_uint(&writer, now_ms);
    claw_put_uint(&writer, 4);
    claw_put_bool(&writer, telemetry->clock_set);
    claw_put_uint(&writer, 5);
    claw_put_text(&writer, sensor->unit.firmware);
    if (!claw_session_send(sensor, writer.used)) {
        return false;
    }
    telemetry->hello = CLAW_HELLO_SENT;
    telemetry->hello_again_ms = now_ms + telemetry->hello_wait_s * UINT64_C(1000);
    telemetry->hello_wait_s = telemetry->hello_wait_s * 2 > WAIT_MAX_S ? WAIT_MAX_S : telemetry->hello_wait_s * 2;
    return true;
}

static bool say_reply(claw_sensor *sensor)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    claw_writer writer = begin_text(sensor, REPLY, 2);
    claw_put_uint(&writer, 1);
    claw_put_uint(&writer, telemetry->reply_id);
    claw_put_uint(&writer, 2);
    claw_put_uint(&writer, telemetry->reply_status);
    if (!claw_session_send(sensor, writer.used)) {
        return false;
    }
    telemetry->reply_due = false;
    return true;
}

static bool send_gap(claw_sensor *sensor)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    claw_writer writer = begin_text(sensor, GAP, 4);
    claw_put_uint(&writer, 1);
    claw_put_uint(&writer, telemetry->epoch);
    claw_put_uint(&writer, 2);
    claw_put_uint(&writer, telemetry->next);
    claw_put_uint(&writer, 3);
    claw_put_uint(&writer, telemetry->first - 1);
    claw_put_uint(&writer, 4);
    claw_put_uint(&writer, MEMORY_FULL);
    if (!claw_session_send(sensor, writer.used)) {
        return false;
    }
    claw_queue_seek(sensor, telemetry->first);
    return true;
}

/* How many readings, from the next one on, fit into one record; all of them with or all without their time, and no
 * uptime below the one before. */
static size_t count_fitting(const claw_sensor *sensor)
{
    const claw_telemetry *telemetry = &sensor->telemetry;
    size_t used = 2 + 2 * (1 + 9) + 2 * (1 + 3); /* type, map, epoch, number, heads of both arrays */
    size_t at = telemetry->next_at, count = 0;
    bool has_time = false;
    uint64_t uptime_ms = 0;
    for (uint64_t number = telemetry->next; number <= telemetry->made; number++) {
        claw_entry entry;
        if (telemetry->most > 0 && count == telemetry->most) {
            break;
        }
        at = claw_queue_entry(sensor, at, &entry);
        if (count > 0 && (entry.has_time != has_time || entry.uptime_ms < uptime_ms)) {
            break;
        }
        used += claw_head_size(entry.pack_size) + entry.pack_size;
        used += entry.has_time ? 0 : claw_head_size(entry.uptime_ms - uptime_ms);
        if (used > CLAW_RECORD_TEXT_MAX) {
            break;
        }
        has_time = entry.has_time;
        uptime_ms = entry.uptime_ms;
        count++;
    }
    return count;
}

static bool send_readings(claw_sensor *sensor)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    size_t count = count_fitting(sensor), at = telemetry->next_at;
    claw_entry entry;
    claw_queue_entry(sensor, at, &entry);
    bool has_time = entry.has_time;
    claw_writer writer = begin_text(sensor, READINGS, has_time ? 3 : 4);
    claw_put_uint(&writer, 1);
    claw_put_uint(&writer, telemetry->epoch);
    claw_put_uint(&writer, 2);
    claw_put_uint(&writer, telemetry->next);
    claw_put_uint(&writer, 3);
    claw_put_array(&writer, count);
    for (size_t i = 0; i < count; i++) {
        at = claw_queue_entry(sensor, at, &entry);
        uint8_t *pack = claw_put_bytes_later(&writer, entry.pack_size);
        if (pack != NULL) {
            claw_queue_copy(sensor, entry.pack_at, pack, entry.pack_size);
        }
    }
    if (!has_time) {
        claw_put_uint(&writer, 4);
        claw_put_array(&writer, count);
        uint64_t before_ms = 0;
        for (size_t i = 0, from = telemetry->next_at; i < count; i++) {
            from = claw_queue_entry(sensor, from, &entry);
            claw_put_uint(&writer, entry.uptime_ms - before_ms);
            before_ms = entry.uptime_ms;
        }
    }
    if (!claw_session_send(sensor, writer.used)) {
        return false;
    }
    telemetry->next += count;
    telemetry->next_at = at;
    telemetry->carried = (uint32_t)count;
    return true;
}

/* A record did not arrive: on a bad link the long ones are lost most. The next ones carry half of what it did, ... */
static void shorten(claw_telemetry *telemetry)
{
    telemetry->most = telemetry->carried < 2 ? 1 : telemetry->carried / 2;
}

/* ... and more again with each Ack that has news. */
static void lengthen(claw_telemetry *telemetry)
{
    if (telemetry->most > 0) {
        telemetry->most += telemetry->most / 4 + 1;
    }
    if (telemetry->most > MOST_MAX) {
        telemetry->most = 0;
    }
}

/* Sends readings while there are some and the line takes them. Gives whether it stopped for the line. */
static bool send_what_waits(claw_sensor *sensor, uint64_t now_ms)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    while (telemetry->next <= telemetry->made && !telemetry->one_only) {
        bool sent = telemetry->next < telemetry->first ? send_gap(sensor) : send_readings(sensor);
        if (!sent) {
            return true;
        }
        if (!telemetry->in_flight) {
            telemetry->in_flight = true;
            telemetry->resend_ms = now_ms + telemetry->wait_ms;
        }
    }
    return false;
}

/* Nothing came for too long: one record from the lowest number that is not safe, and then an Ack must come. */
static void resend(claw_sensor *sensor, uint64_t now_ms)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    shorten(telemetry);
    claw_queue_seek(sensor, telemetry->safe + 1);
    bool sent = telemetry->next < telemetry->first ? send_gap(sensor) : send_readings(sensor);
    if (!sent) {
        return;
    }
    telemetry->one_only = true;
    telemetry->wait_ms = telemetry->wait_ms * 2 > WAIT_MAX_S * 1000 ? WAIT_MAX_S * 1000 : telemetry->wait_ms * 2;
    telemetry->resend_ms = now_ms + telemetry->wait_ms;
}

uint64_t claw_telemetry_poll(claw_sensor *sensor, uint64_t now_ms)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    if (!claw_send_rest(sensor)) {
        return now_ms + LINE_BUSY_MS;
    }
    if (telemetry->hello == CLAW_HELLO_DUE ||
        (telemetry->hello == CLAW_HELLO_SENT && now_ms >= telemetry->hello_again_ms)) {
        if (!say_hello(sensor, now_ms)) {
            return now_ms + LINE_BUSY_MS;
        }
    }
    if (telemetry->hello >= CLAW_HELLO_SENT && telemetry->reply_due && !say_reply(sensor)) {
        return now_ms + LINE_BUSY_MS;
    }
    if (telemetry->unpair_due && !telemetry->reply_due) {
        claw_session_end(sensor);
        claw_window_wait(sensor, now_ms);
        if (!claw_telemetry_reset(sensor)) {
            sensor->status = CLAW_NO_RANDOM;
        }
        claw_tell(sensor, CLAW_UNPAIRED, 0);
        return UINT64_MAX;
    }
    if (telemetry->hello == CLAW_HELLO_SENT) {
        return telemetry->hello_again_ms;
    }
    if (telemetry->hello != CLAW_HELLO_DONE) {
        return UINT64_MAX;
    }
    if (telemetry->in_flight && now_ms >= telemetry->resend_ms) {
        resend(sensor, now_ms);
    }
    if (send_what_waits(sensor, now_ms)) {
        return now_ms + LINE_BUSY_MS;
    }
    return telemetry->in_flight ? telemetry->resend_ms : UINT64_MAX;
}

static void take_ack(claw_sensor *sensor, uint64_t epoch, uint64_t safe, uint64_t next, uint64_t now_ms)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    if (telemetry->hello < CLAW_HELLO_SENT || epoch != telemetry->epoch || next <= safe || next > telemetry->made + 1) {
        return;
    }
    bool answers_hello = telemetry->hello == CLAW_HELLO_SENT;
    bool news = answers_hello || safe != telemetry->ack_safe || next != telemetry->ack_next;
    telemetry->hello = CLAW_HELLO_DONE;
    telemetry->ack_safe = safe;
    telemetry->ack_next = next;
    telemetry->one_only = false;
    if (safe > telemetry->safe) {
        claw_queue_forget(sensor, safe);
        telemetry->safe = safe;
    }
    if (answers_hello || next > telemetry->next) {
        claw_queue_seek(sensor, next);
    } else if (!news && next < telemetry->next &&
               (next != telemetry->back_to || now_ms >= telemetry->back_again_ms)) {
        shorten(telemetry);
        claw_queue_seek(sensor, next);
        telemetry->back_to = next;
        telemetry->back_again_ms = now_ms + GO_BACK_EVERY_MS;
    }
    if (news) {
        lengthen(telemetry);
        telemetry->wait_ms = WAIT_FIRST_S * 1000;
        telemetry->resend_ms = now_ms + telemetry->wait_ms;
        telemetry->in_flight = telemetry->next > telemetry->safe + 1;
    }
}

static uint8_t carry_out(claw_sensor *sensor, uint64_t what, bool has_seconds, uint64_t seconds, uint64_t now_ms)
{
    if (!has_seconds && what != DO_UNPAIR) {
        return REFUSED;
    }
    switch (what) {
    case DO_IDENTIFY:
        return claw_blink(sensor, seconds, now_ms) ? DONE : NOT_NOW;
    case DO_OPEN_WINDOW:
        seconds = seconds > CLAW_WINDOW_S ? CLAW_WINDOW_S : seconds;
        return claw_window_open_label(sensor, (uint32_t)seconds, now_ms) == CLAW_OK ? DONE : REFUSED;
    case DO_UNPAIR:
        /* Done is said when it is: the keys go first, the live session carries the reply and ends after it. */
        if (claw_forget(sensor) != CLAW_OK) {
            return REFUSED;
        }
        sensor->telemetry.unpair_due = true;
        return DONE;
    default:
        return REFUSED;
    }
}

void claw_telemetry_take(claw_sensor *sensor, const uint8_t *text, size_t size, uint64_t now_ms)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    if (size < 2) {
        return;
    }
    uint8_t type = text[0];
    bool seen[4] = {false};
    uint64_t value[4] = {0};
    claw_reader reader = claw_read_from(text + 1, size - 1);
    claw_map map = claw_get_map(&reader);
    for (int64_t key; claw_next_key(&map, &key);) {
        bool listed = (type == ACK || type == TIME || type == COMMAND) && key >= 1 && key <= (type == TIME ? 1 : 3);
        if (listed) {
            value[key] = claw_get_uint(&reader);
            seen[key] = true;
        } else {
            claw_skip(&reader);
        }
    }
    if (!claw_read_all(&reader)) {
        return;
    }
    if (type == ACK && seen[1] && seen[2] && seen[3]) {
        take_ack(sensor, value[1], value[2], value[3], now_ms);
    } else if (type == TIME && seen[1] && value[1] <= TIME_MAX_MS) {
        telemetry->clock_offset_ms = (int64_t)(value[1] - now_ms);
        telemetry->clock_set = true;
        claw_tell(sensor, CLAW_CLOCK_SET, 0);
    } else if (type == COMMAND && seen[1] && seen[2] && value[1] <= UINT32_MAX) {
        telemetry->reply_id = (uint32_t)value[1];
        telemetry->reply_status = carry_out(sensor, value[2], seen[3], value[3], now_ms);
        telemetry->reply_due = true;
    } else if (type == BYE) {
        claw_session_end(sensor);
        telemetry->hello = CLAW_HELLO_NONE;
    }
}

void claw_bye(claw_sensor *sensor)
{
    claw_writer writer = begin_text(sensor, BYE, 0);
    if (sensor->telemetry.hello != CLAW_HELLO_NONE && sensor->telemetry.hello != CLAW_HELLO_DUE) {
        claw_session_send(sensor, writer.used);
    }
    claw_session_end(sensor);
    sensor->telemetry.hello = CLAW_HELLO_NONE;
}

/* SenML: labels of RFC 8428 in CBOR. */
enum { SENML_NAME = 0, SENML_UNIT = 1, SENML_VALUE = 2, SENML_BASE_TIME = -3 };

static void write_pack(claw_writer *writer, const claw_telemetry *telemetry, const claw_value *values, size_t count,
                       uint64_t now_ms)
{
    claw_put_array(writer, count);
    for (size_t i = 0; i < count; i++) {
        bool with_time = i == 0 && telemetry->clock_set;
        claw_put_map(writer, 2u + (values[i].unit != NULL) + with_time);
        claw_put_uint(writer, SENML_NAME);
        claw_put_text(writer, values[i].name);
        if (values[i].unit != NULL) {
            claw_put_uint(writer, SENML_UNIT);
            claw_put_text(writer, values[i].unit);
        }
        claw_put_uint(writer, SENML_VALUE);
        claw_put_float(writer, values[i].value);
        if (with_time) {
            claw_put_int(writer, SENML_BASE_TIME);
            claw_put_float(writer, (double)((int64_t)now_ms + telemetry->clock_offset_ms) / 1000.0);
        }
    }
}

static bool is_text(const char *text)
{
    return claw_is_text((const uint8_t *)text, strlen(text));
}

claw_status claw_report(claw_sensor *sensor, const claw_value *values, size_t count, uint64_t now_ms)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    bool sound = count > 0;
    for (size_t i = 0; i < count; i++) {
        sound = sound && values[i].value - values[i].value == 0.0 && is_text(values[i].name) &&
                (values[i].unit == NULL || is_text(values[i].unit));
    }
    claw_writer size = claw_write_nowhere(), pack;
    write_pack(&size, telemetry, values, sound ? count : 0, now_ms);
    size_t in_record = 2 + 2 * (1 + 9) + 2 * (1 + 3) + 3 + 9 + size.used;
    if (sensor->status != CLAW_OK || !sound || in_record > CLAW_RECORD_TEXT_MAX ||
        CLAW_ENTRY_HEAD + size.used > sensor->unit.queue_size) {
        return CLAW_BAD_READING;
    }
    uint32_t dropped = claw_queue_put(sensor, (uint16_t)size.used, telemetry->clock_set, now_ms, &pack);
    write_pack(&pack, telemetry, values, count, now_ms);
    if (dropped > 0) {
        claw_tell(sensor, CLAW_DROPPED, dropped);
    }
    return CLAW_OK;
}

uint64_t claw_held(const claw_sensor *sensor)
{
    return sensor->telemetry.made + 1 - sensor->telemetry.first;
}
