/* Two pages of flash in turn: the save() of a claw_board for microcontrollers. A record is whole or is not there:
 * its mark is programmed last. A record that was replaced is erased at once, since it holds keys. */
#ifndef CLAWGATE_PAGES_H
#define CLAWGATE_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clawgate_limits.h"

/* A record: number (4), content, padding to a multiple of 4, CRC-32 (4), mark (4). */
#define CLAW_PAGES_CONTENT ((CLAW_FLASH_SIZE + 3) / 4 * 4)
#define CLAW_PAGES_RECORD (4 + CLAW_PAGES_CONTENT + 4 + 4)

/* The flash under it: two areas of at least CLAW_PAGES_RECORD bytes that can be erased by themselves, to ff. Each
 * function gives whether it worked. */
typedef struct {
    void *context;
    bool (*erase)(void *context, unsigned page);
    /* `at` and `size` are multiples of 4; these bytes were not programmed since the page was erased. */
    bool (*program)(void *context, unsigned page, size_t at, const uint8_t *bytes, size_t size);
    bool (*read)(void *context, unsigned page, size_t at, uint8_t *bytes, size_t size);
} claw_flash;

typedef enum {
    CLAW_PAGES_FOUND,   /* the content is there: give it to claw_start() */
    CLAW_PAGES_EMPTY,   /* nothing was ever stored: start with NULL */
    CLAW_PAGES_DAMAGED, /* something was: `content` holds what no sensor takes, so that claw_start() says so */
} claw_pages_state;

/* Reads what was stored last into `content`, CLAW_FLASH_SIZE bytes. To be called once before claw_pages_save(). */
claw_pages_state claw_pages_load(const claw_flash *flash, uint8_t *content);
/* Stores CLAW_FLASH_SIZE bytes. False: the old ones are still there, and the call may be repeated. */
bool claw_pages_save(const claw_flash *flash, const uint8_t *content);

#endif
