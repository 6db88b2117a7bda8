/* The little that the tests need: checks that say where they failed, and bytes from the published files. */
#ifndef CLAW_CHECK_H
#define CLAW_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)
#define CHECK_SAME(got, got_size, wanted) check_same((got), (got_size), &(wanted), #wanted, __FILE__, __LINE__)

typedef struct {
    uint8_t bytes[1200];
    size_t size;
} blob;

void check(bool holds, const char *what, const char *file, int line);
void check_same(const void *got, size_t size, const blob *wanted, const char *what, const char *file, int line);
int check_report(void);

blob from_hex(const char *hex);
/* A value of docs/protocol.md's worked example: the block `# name` behind the heading `### section`. */
blob from_page(const char *section, const char *name);
/* An example in the text of docs/protocol.md: a line `name  hex`, the first of that name behind a heading. */
blob from_line(const char *heading, const char *name);
/* "name": "hex" in a JSON file of vectors, the n-th of that name. */
blob from_json(const char *file, const char *name, int n);

void test_ble(void);
void test_codecs(void);
void test_crypto(void);
void test_fuzz(void);
void test_pages(void);
void test_pairing(void);
void test_session(void);
void test_telemetry(void);

#endif
