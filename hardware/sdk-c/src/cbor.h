/* The one form of CBOR that the protocol takes: shortest heads, definite lengths, sorted keys, no tags, no null. */
#ifndef CLAW_CBOR_H
#define CLAW_CBOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Writes into memory of the caller; what does not fit sets `full` and writes nothing more. */
typedef struct {
    uint8_t *at; /* NULL: only counts */
    size_t size;
    size_t used;
    bool full;
    size_t ring;  /* not 0: `at` is a ring of this size, and the first byte goes to `start` */
    size_t start;
} claw_writer;

claw_writer claw_write_into(uint8_t *at, size_t size);
claw_writer claw_write_into_ring(uint8_t *at, size_t ring, size_t start, size_t size);
claw_writer claw_write_nowhere(void);
void claw_put_byte(claw_writer *writer, uint8_t byte);
void claw_put_uint(claw_writer *writer, uint64_t value);
void claw_put_int(claw_writer *writer, int64_t value);
void claw_put_bool(claw_writer *writer, bool value);
/* As 32 bits where nothing is lost by it, else as 64. */
void claw_put_float(claw_writer *writer, double value);
void claw_put_bytes(claw_writer *writer, const void *bytes, size_t size);
void claw_put_text(claw_writer *writer, const char *text);
void claw_put_array(claw_writer *writer, size_t items);
void claw_put_map(claw_writer *writer, size_t entries);
/* How many bytes the head of an item with this value or size takes. */
size_t claw_head_size(uint64_t value);
/* The head of a byte string whose `size` bytes the caller fills in: gives their place, or NULL. */
uint8_t *claw_put_bytes_later(claw_writer *writer, size_t size);

/* Reads what a peer sent. The first thing that is not in the one form sets `bad`; every later call then gives zero. */
typedef struct {
    const uint8_t *at;
    size_t left;
    bool bad;
} claw_reader;

typedef struct {
    const uint8_t *bytes;
    size_t size;
} claw_slice;

claw_reader claw_read_from(const void *bytes, size_t size);
uint64_t claw_get_uint(claw_reader *reader);
bool claw_get_bool(claw_reader *reader);
claw_slice claw_get_bytes(claw_reader *reader);
claw_slice claw_get_text(claw_reader *reader);
/* UTF-8 in its shortest form. */
bool claw_is_text(const uint8_t *text, size_t size);
/* Reads over any one item, checking its form. */
void claw_skip(claw_reader *reader);

/* Walks a map with integer keys, in order:
 *     for (claw_map map = claw_get_map(&reader); claw_next_key(&map, &key);) { read or skip the value }
 * The walk ends early when something is bad. */
typedef struct {
    claw_reader *reader;
    uint64_t entries; /* still to come */
    const uint8_t *last_key;
    size_t last_key_size;
} claw_map;

claw_map claw_get_map(claw_reader *reader);
bool claw_next_key(claw_map *map, int64_t *key);
/* Nothing was bad and nothing is left. */
bool claw_read_all(const claw_reader *reader);

#endif
