/* Two pages of flash: the power fails at every byte, cells break, the chip refuses. */
#include <string.h>

#include "check.h"
#include "clawgate_pages.h"

#define PAGE 512

static uint8_t cells[2][PAGE];
static size_t budget;    /* so many bytes until the power fails; an erase counts as one, and may be half done */
static bool half_erased;
static bool refuses;

static bool erase(void *context, unsigned page)
{
    (void)context;
    if (refuses || budget == 0) {
        return false;
    }
    budget--;
    memset(cells[page], 0xff, half_erased && budget == 0 ? PAGE / 2 : PAGE);
    return !(half_erased && budget == 0);
}

static bool program(void *context, unsigned page, size_t at, const uint8_t *bytes, size_t size)
{
    (void)context;
    CHECK(at % 4 == 0 && size % 4 == 0 && at + size <= CLAW_PAGES_RECORD);
    for (size_t i = 0; i < size; i++) {
        if (refuses || budget == 0) {
            return false;
        }
        budget--;
        CHECK(cells[page][at + i] == 0xff); /* programmed once between two erasures */
        cells[page][at + i] &= bytes[i];
    }
    return true;
}

static bool read(void *context, unsigned page, size_t at, uint8_t *bytes, size_t size)
{
    (void)context;
    memcpy(bytes, cells[page] + at, size);
    return true;
}

static const claw_flash flash = {NULL, erase, program, read};

static void make_new(void)
{
    memset(cells, 0xff, sizeof cells);
    budget = SIZE_MAX;
    half_erased = refuses = false;
}

static void fill(uint8_t *content, uint8_t with)
{
    for (size_t i = 0; i < CLAW_FLASH_SIZE; i++) {
        content[i] = (uint8_t)(i * i * with + i);
    }
}

static bool holds(uint8_t with)
{
    uint8_t content[CLAW_FLASH_SIZE], wanted[CLAW_FLASH_SIZE];
    fill(wanted, with);
    return claw_pages_load(&flash, content) == CLAW_PAGES_FOUND && memcmp(content, wanted, sizeof wanted) == 0;
}

static bool save(uint8_t with)
{
    uint8_t content[CLAW_FLASH_SIZE];
    fill(content, with);
    return claw_pages_save(&flash, content);
}

static void what_was_saved_last_is_found(void)
{
    uint8_t content[CLAW_FLASH_SIZE];
    make_new();
    CHECK(claw_pages_load(&flash, content) == CLAW_PAGES_EMPTY);
    for (unsigned i = 0; i < 300; i++) {
        CHECK(save((uint8_t)i) && holds((uint8_t)i));
    }
}

static void the_power_may_fail_at_every_byte(void)
{
    for (int half = 0; half < 2; half++) {
        for (size_t left = 0; left <= CLAW_PAGES_RECORD + 3; left++) {
            make_new();
            CHECK(save(1) && save(2));
            budget = left;
            half_erased = half;
            bool told = save(3);
            budget = SIZE_MAX;
            bool old = holds(2), new = holds(3);
            CHECK(old != new && (!told || new));
            CHECK(save(4) && holds(4));
        }
    }
}

static void the_power_may_fail_in_the_first_save(void)
{
    for (size_t left = 0; left < CLAW_PAGES_RECORD; left++) {
        uint8_t content[CLAW_FLASH_SIZE];
        make_new();
        budget = left;
        CHECK(!save(1));
        budget = SIZE_MAX;
        /* Every byte of the mark but its last: not a record, and not nothing either. */
        claw_pages_state state = claw_pages_load(&flash, content);
        CHECK(state == (left <= CLAW_PAGES_RECORD - 4 ? CLAW_PAGES_EMPTY : CLAW_PAGES_DAMAGED));
    }
}

static bool is_anywhere(const uint8_t *bytes, size_t size)
{
    const uint8_t *all = cells[0];
    for (size_t at = 0; at + size <= sizeof cells; at++) {
        if (memcmp(all + at, bytes, size) == 0) {
            return true;
        }
    }
    return false;
}

static void what_was_replaced_is_erased(void)
{
    uint8_t old[CLAW_FLASH_SIZE], content[CLAW_FLASH_SIZE];
    fill(old, 1);
    make_new();
    CHECK(save(1) && is_anywhere(old, 16));
    CHECK(save(2) && !is_anywhere(old, 16));
    /* The power failed before the erasure: the next start does it. */
    make_new();
    CHECK(save(1));
    budget = CLAW_PAGES_RECORD;
    CHECK(save(2) && is_anywhere(old, 16));
    budget = SIZE_MAX;
    CHECK(claw_pages_load(&flash, content) == CLAW_PAGES_FOUND && !is_anywhere(old, 16) && holds(2));
}

static void broken_cells_are_damage_and_never_a_new_unit(void)
{
    uint8_t content[CLAW_FLASH_SIZE];
    for (size_t at = 0; at < CLAW_PAGES_RECORD; at++) {
        make_new();
        CHECK(save(1));
        cells[0][at] ^= 0x10;
        CHECK(claw_pages_load(&flash, content) == CLAW_PAGES_DAMAGED);
        CHECK(save(2) && holds(2)); /* a person reset it */
    }
}

static void a_chip_that_refuses_leaves_what_was(void)
{
    make_new();
    CHECK(save(1) && save(2));
    refuses = true;
    CHECK(!save(3));
    refuses = false;
    CHECK(holds(2));
}

void test_pages(void)
{
    what_was_saved_last_is_found();
    the_power_may_fail_at_every_byte();
    the_power_may_fail_in_the_first_save();
    what_was_replaced_is_erased();
    broken_cells_are_damage_and_never_a_new_unit();
    a_chip_that_refuses_leaves_what_was();
}
