#include "cbor.h"

#include <string.h>

enum { UINT = 0, NEGATIVE = 1, BYTES = 2, TEXT = 3, ARRAY = 4, MAP = 5, SIMPLE = 7 };
enum { FALSE = 20, TRUE = 21, FLOAT16 = 25, FLOAT32 = 26, FLOAT64 = 27 };
#define DEPTH 8

claw_writer claw_write_into(uint8_t *at, size_t size)
{
    return (claw_writer){at, size, 0, false, 0, 0};
}

claw_writer claw_write_into_ring(uint8_t *at, size_t ring, size_t start, size_t size)
{
    return (claw_writer){at, size, 0, false, ring, start};
}

claw_writer claw_write_nowhere(void)
{
    return (claw_writer){NULL, SIZE_MAX, 0, false, 0, 0};
}

static void put_into_ring(const claw_writer *writer, const uint8_t *bytes, size_t size)
{
    size_t place = writer->start + writer->used;
    for (size_t i = 0; i < size; i++) {
        place -= place >= writer->ring ? writer->ring : 0;
        writer->at[place++] = bytes[i];
    }
}

static void put_raw(claw_writer *writer, const void *bytes, size_t size)
{
    if (writer->full || size > writer->size - writer->used) {
        writer->full = true;
        return;
    }
    if (writer->ring > 0) {
        put_into_ring(writer, bytes, size);
    } else if (writer->at != NULL && size > 0) {
        memcpy(writer->at + writer->used, bytes, size);
    }
    writer->used += size;
}

void claw_put_byte(claw_writer *writer, uint8_t byte)
{
    put_raw(writer, &byte, 1);
}

/* A head: `extra` bytes of value behind the initial byte. */
static void put_sized(claw_writer *writer, uint8_t initial, uint64_t value, size_t extra)
{
    uint8_t head[9] = {initial};
    for (size_t i = 0; i < extra; i++) {
        head[extra - i] = (uint8_t)(value >> (8 * i));
    }
    put_raw(writer, head, 1 + extra);
}

static void put_head(claw_writer *writer, uint8_t major, uint64_t value)
{
    uint8_t type = (uint8_t)(major << 5);
    if (value < 24) {
        put_sized(writer, type | (uint8_t)value, 0, 0);
    } else if (value <= UINT8_MAX) {
        put_sized(writer, type | 24, value, 1);
    } else if (value <= UINT16_MAX) {
        put_sized(writer, type | 25, value, 2);
    } else if (value <= UINT32_MAX) {
        put_sized(writer, type | 26, value, 4);
    } else {
        put_sized(writer, type | 27, value, 8);
    }
}

size_t claw_head_size(uint64_t value)
{
    return value < 24 ? 1 : value <= UINT8_MAX ? 2 : value <= UINT16_MAX ? 3 : value <= UINT32_MAX ? 5 : 9;
}

void claw_put_uint(claw_writer *writer, uint64_t value)
{
    put_head(writer, UINT, value);
}

void claw_put_int(claw_writer *writer, int64_t value)
{
    if (value < 0) {
        put_head(writer, NEGATIVE, (uint64_t)(-(value + 1)));
    } else {
        put_head(writer, UINT, (uint64_t)value);
    }
}

void claw_put_bool(claw_writer *writer, bool value)
{
    put_head(writer, SIMPLE, value ? TRUE : FALSE);
}

void claw_put_float(claw_writer *writer, double value)
{
    float narrow = (float)value;
    if ((double)narrow == value) {
        uint32_t bits;
        memcpy(&bits, &narrow, sizeof bits);
        put_sized(writer, (SIMPLE << 5) | FLOAT32, bits, 4);
    } else {
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        put_sized(writer, (SIMPLE << 5) | FLOAT64, bits, 8);
    }
}

uint8_t *claw_put_bytes_later(claw_writer *writer, size_t size)
{
    put_head(writer, BYTES, size);
    if (writer->full || size > writer->size - writer->used) {
        writer->full = true;
        return NULL;
    }
    uint8_t *place = writer->at + writer->used;
    writer->used += size;
    return place;
}

void claw_put_bytes(claw_writer *writer, const void *bytes, size_t size)
{
    put_head(writer, BYTES, size);
    put_raw(writer, bytes, size);
}

void claw_put_text(claw_writer *writer, const char *text)
{
    put_head(writer, TEXT, strlen(text));
    put_raw(writer, text, strlen(text));
}

void claw_put_array(claw_writer *writer, size_t items)
{
    put_head(writer, ARRAY, items);
}

void claw_put_map(claw_writer *writer, size_t entries)
{
    put_head(writer, MAP, entries);
}

claw_reader claw_read_from(const void *bytes, size_t size)
{
    return (claw_reader){bytes, size, false};
}

static const uint8_t *take(claw_reader *reader, uint64_t size)
{
    if (reader->bad || size > reader->left) {
        reader->bad = true;
        return NULL;
    }
    const uint8_t *bytes = reader->at;
    reader->at += size;
    reader->left -= (size_t)size;
    return bytes;
}

/* A head in its shortest form. For SIMPLE the value is the raw bits of a float, or the simple value. */
static uint64_t get_head(claw_reader *reader, uint8_t *major, uint8_t *info)
{
    const uint8_t *initial = take(reader, 1);
    *major = 0xff;
    *info = 0;
    if (initial == NULL) {
        return 0;
    }
    *major = *initial >> 5;
    *info = *initial & 0x1f;
    if (*info < 24) {
        return *info;
    }
    size_t extra = (size_t)1 << (*info - 24);
    const uint8_t *bytes = *info > 27 ? NULL : take(reader, extra);
    if (bytes == NULL) {
        reader->bad = true;
        return 0;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < extra; i++) {
        value = value << 8 | bytes[i];
    }
    if (*major != SIMPLE) {
        uint64_t shorter = *info == 24 ? 23 : ((uint64_t)1 << (4 * extra)) - 1;
        reader->bad |= value <= shorter;
    }
    return value;
}

static uint64_t get_typed(claw_reader *reader, uint8_t wanted)
{
    uint8_t major, info;
    uint64_t value = get_head(reader, &major, &info);
    reader->bad |= major != wanted;
    return reader->bad ? 0 : value;
}

uint64_t claw_get_uint(claw_reader *reader)
{
    return get_typed(reader, UINT);
}

bool claw_get_bool(claw_reader *reader)
{
    uint64_t value = get_typed(reader, SIMPLE);
    reader->bad |= value != FALSE && value != TRUE;
    return value == TRUE;
}

static claw_slice get_string(claw_reader *reader, uint8_t major)
{
    uint64_t size = get_typed(reader, major);
    const uint8_t *bytes = take(reader, size);
    return bytes == NULL ? (claw_slice){NULL, 0} : (claw_slice){bytes, (size_t)size};
}

claw_slice claw_get_bytes(claw_reader *reader)
{
    return get_string(reader, BYTES);
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
bool claw_is_text(const uint8_t *text, size_t size)
{
    for (size_t i = 0; i < size;) {
        uint8_t lead = text[i++];
        size_t more = lead < 0x80 ? 0 : lead < 0xc2 ? 9 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : lead < 0xf5 ? 3 : 9;
        if (more > size - i) {
            return false;
        }
        if (more > 0) {
            uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
            uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
            if (text[i] < low || text[i] > high) {
                return false;
            }
        }
        for (size_t k = 1; k < more; k++) {
            if ((text[i + k] & 0xc0) != 0x80) {
                return false;
            }
        }
        i += more;
    }
    return true;
}

claw_slice claw_get_text(claw_reader *reader)
{
    claw_slice text = get_string(reader, TEXT);
    reader->bad |= !claw_is_text(text.bytes, text.size);
    return text;
}

static bool is_finite(uint8_t info, uint64_t bits)
{
    uint64_t exponent = info == FLOAT16 ? 0x7c00 : info == FLOAT32 ? 0x7f800000 : 0x7ff0000000000000;
    return (bits & exponent) != exponent;
}

/* The form of a key that follows another one: sorted by their encoded bytes, none twice. */
static void check_order(claw_reader *reader, const uint8_t **last, size_t *last_size, const uint8_t *key)
{
    size_t size = (size_t)(reader->at - key);
    if (!reader->bad && *last != NULL) {
        size_t common = size < *last_size ? size : *last_size;
        int order = memcmp(*last, key, common);
        reader->bad |= order > 0 || (order == 0 && size <= *last_size);
    }
    *last = key;
    *last_size = size;
}

static void skip_within(claw_reader *reader, unsigned depth)
{
    uint8_t major, info;
    if (depth > DEPTH) {
        reader->bad = true;
        return;
    }
    uint64_t value = get_head(reader, &major, &info);
    if (reader->bad) {
        return;
    }
    if (major == BYTES || major == TEXT) {
        const uint8_t *bytes = take(reader, value);
        reader->bad |= major == TEXT && bytes != NULL && !claw_is_text(bytes, (size_t)value);
    } else if (major == ARRAY) {
        for (uint64_t i = 0; i < value && !reader->bad; i++) {
            skip_within(reader, depth + 1);
        }
    } else if (major == MAP) {
        const uint8_t *last = NULL;
        size_t last_size = 0;
        for (uint64_t i = 0; i < value && !reader->bad; i++) {
            const uint8_t *key = reader->at;
            skip_within(reader, depth + 1);
            check_order(reader, &last, &last_size, key);
            skip_within(reader, depth + 1);
        }
    } else if (major == SIMPLE) {
        bool is_float = info >= FLOAT16 && info <= FLOAT64;
        bool known = info == FALSE || info == TRUE || (is_float && is_finite(info, value));
        reader->bad |= !known;
    } else {
        reader->bad |= major != UINT && major != NEGATIVE;
    }
}

void claw_skip(claw_reader *reader)
{
    skip_within(reader, 2); /* it stands inside a map */
}

claw_map claw_get_map(claw_reader *reader)
{
    return (claw_map){reader, get_typed(reader, MAP), NULL, 0};
}

bool claw_next_key(claw_map *map, int64_t *key)
{
    claw_reader *reader = map->reader;
    if (map->entries == 0 || reader->bad) {
        return false;
    }
    map->entries--;
    const uint8_t *start = reader->at;
    uint8_t major, info;
    uint64_t value = get_head(reader, &major, &info);
    reader->bad |= (major != UINT && major != NEGATIVE) || value > INT64_MAX;
    check_order(reader, &map->last_key, &map->last_key_size, start);
    *key = major == NEGATIVE ? -1 - (int64_t)value : (int64_t)value;
    return !reader->bad;
}

bool claw_read_all(const claw_reader *reader)
{
    return !reader->bad && reader->left == 0;
}
