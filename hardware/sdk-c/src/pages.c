#include "clawgate_pages.h"

#include <string.h>

#include "frame.h"

#define CONTENT_AT 4
#define CRC_AT (CONTENT_AT + CLAW_PAGES_CONTENT)
#define MARK_AT (CRC_AT + 4)
#define PIECE 32

static const uint8_t MARK[4] = {'c', 'l', 'a', 'w'};

typedef enum { BLANK, UNFINISHED, WHOLE, DAMAGED } page_state;

static void put_u32(uint8_t *at, uint32_t value)
{
    for (size_t i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static bool is_blank(const uint8_t *bytes, size_t size)
{
    uint8_t all = 0xff;
    for (size_t i = 0; i < size; i++) {
        all &= bytes[i];
    }
    return all == 0xff;
}

/* Looks through a page in pieces: a unit with little memory has none for a copy of it. */
static page_state look(const claw_flash *flash, unsigned page, uint32_t *number)
{
    uint8_t piece[PIECE], end[8];
    uint32_t crc = 0;
    bool blank = true;
    if (!flash->read(flash->context, page, CRC_AT, end, sizeof end)) {
        return DAMAGED;
    }
    for (size_t at = 0; at < CRC_AT; at += PIECE) {
        size_t size = CRC_AT - at < PIECE ? CRC_AT - at : PIECE;
        if (!flash->read(flash->context, page, at, piece, size)) {
            return DAMAGED;
        }
        if (at == 0) {
            *number = get_u32(piece);
        }
        blank = blank && is_blank(piece, size);
        crc = claw_crc32(crc, piece, size);
    }
    if (is_blank(end + 4, 4)) {
        return blank && is_blank(end, 4) ? BLANK : UNFINISHED;
    }
    return memcmp(end + 4, MARK, sizeof MARK) == 0 && crc == get_u32(end) ? WHOLE : DAMAGED;
}

/* The page that counts, of both that were looked at; 2: none. The number goes round. */
static unsigned newest(const page_state state[2], const uint32_t number[2])
{
    if (state[0] == WHOLE && state[1] == WHOLE) {
        return number[1] - number[0] < UINT32_C(0x80000000) ? 1 : 0;
    }
    return state[0] == WHOLE ? 0 : state[1] == WHOLE ? 1 : 2;
}

claw_pages_state claw_pages_load(const claw_flash *flash, uint8_t *content)
{
    uint32_t number[2] = {0, 0};
    page_state state[2] = {look(flash, 0, &number[0]), look(flash, 1, &number[1])};
    unsigned page = newest(state, number);
    memset(content, 0xff, CLAW_FLASH_SIZE);
    if (page == 2) {
        return state[0] == DAMAGED || state[1] == DAMAGED ? CLAW_PAGES_DAMAGED : CLAW_PAGES_EMPTY;
    }
    if (state[page ^ 1] != BLANK) {
        flash->erase(flash->context, page ^ 1); /* a power cut came before it; if it fails, the next save tries again */
    }
    if (!flash->read(flash->context, page, CONTENT_AT, content, CLAW_FLASH_SIZE)) {
        memset(content, 0xff, CLAW_FLASH_SIZE);
        return CLAW_PAGES_DAMAGED;
    }
    return CLAW_PAGES_FOUND;
}

static bool program(const claw_flash *flash, unsigned page, uint32_t number, const uint8_t *content)
{
    uint8_t piece[PIECE];
    uint32_t crc = 0;
    for (size_t at = 0, taken = 0; at < CRC_AT; at += PIECE) {
        size_t size = CRC_AT - at < PIECE ? CRC_AT - at : PIECE, from = at == 0 ? CONTENT_AT : 0;
        size_t copied = size - from < CLAW_FLASH_SIZE - taken ? size - from : CLAW_FLASH_SIZE - taken;
        memset(piece, 0, sizeof piece);
        if (at == 0) {
            put_u32(piece, number);
        }
        memcpy(piece + from, content + taken, copied);
        taken += copied;
        crc = claw_crc32(crc, piece, size);
        if (!flash->program(flash->context, page, at, piece, size)) {
            return false;
        }
    }
    put_u32(piece, crc);
    uint32_t read_number;
    return flash->program(flash->context, page, CRC_AT, piece, 4) &&
           flash->program(flash->context, page, MARK_AT, MARK, sizeof MARK) &&
           look(flash, page, &read_number) == WHOLE && read_number == number;
}

bool claw_pages_save(const claw_flash *flash, const uint8_t *content)
{
    uint32_t number[2] = {0, 0};
    page_state state[2] = {look(flash, 0, &number[0]), look(flash, 1, &number[1])};
    unsigned old = newest(state, number), page = old == 2 ? 0 : old ^ 1;
    uint32_t next = old == 2 ? 1 : number[old] + 1;
    if (state[page] != BLANK && !flash->erase(flash->context, page)) {
        return false;
    }
    if (!program(flash, page, next, content)) {
        flash->erase(flash->context, page);
        return false;
    }
    /* Nothing that fails from here on may be told as a failure: the new record counts. An old one that could not be
     * erased is erased at the next start or save. */
    if (state[page ^ 1] != BLANK) {
        flash->erase(flash->context, page ^ 1);
    }
    return true;
}
