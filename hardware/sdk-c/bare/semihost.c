#include "semihost.h"

#include <string.h>

enum {
    OPEN = 0x01,
    WRITEC = 0x03,
    WRITE = 0x05,
    READ = 0x06,
    SEEK = 0x0a,
};
enum { READ_ONLY = 1, READ_WRITE = 3, MAKE_NEW = 7 }; /* the modes rb, r+b, w+b */

#define PAGE 512
#define NO_FILE 0xffffffffu

static uint32_t call(uint32_t operation, const void *arguments)
{
    register uint32_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = arguments;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint32_t open(const char *path, uint32_t mode)
{
    uint32_t arguments[3] = {(uint32_t)(uintptr_t)path, mode, (uint32_t)strlen(path)};
    return call(OPEN, arguments);
}

/* Both give the number of bytes that are left over. */
static uint32_t transfer(uint32_t operation, uint32_t file, const void *bytes, size_t size)
{
    uint32_t arguments[3] = {file, (uint32_t)(uintptr_t)bytes, (uint32_t)size};
    return call(operation, arguments);
}

static bool seek(uint32_t file, size_t at)
{
    uint32_t arguments[2] = {file, (uint32_t)at};
    return call(SEEK, arguments) == 0;
}

static uint32_t flash_file = NO_FILE;

static bool erase(void *context, unsigned page)
{
    uint8_t blank[32];
    (void)context;
    memset(blank, 0xff, sizeof blank);
    bool erased = seek(flash_file, page * PAGE);
    for (size_t at = 0; at < PAGE && erased; at += sizeof blank) {
        erased = transfer(WRITE, flash_file, blank, sizeof blank) == 0;
    }
    return erased;
}

static bool program(void *context, unsigned page, size_t at, const uint8_t *bytes, size_t size)
{
    (void)context;
    return seek(flash_file, page * PAGE + at) && transfer(WRITE, flash_file, bytes, size) == 0;
}

static bool read(void *context, unsigned page, size_t at, uint8_t *bytes, size_t size)
{
    (void)context;
    return seek(flash_file, page * PAGE + at) && transfer(READ, flash_file, bytes, size) == 0;
}

bool semihost_flash(claw_flash *flash)
{
    *flash = (claw_flash){NULL, erase, program, read};
    flash_file = open("flash.bin", READ_WRITE);
    if (flash_file != NO_FILE) {
        return true;
    }
    flash_file = open("flash.bin", MAKE_NEW);
    return flash_file != NO_FILE && erase(NULL, 0) && erase(NULL, 1);
}

bool semihost_seed(uint8_t *out, size_t size)
{
    uint32_t file = open("seed.bin", READ_ONLY);
    return file != NO_FILE && transfer(READ, file, out, size) == 0;
}

int semihost_take(void)
{
    static uint32_t file = NO_FILE;
    uint8_t byte;
    if (file == NO_FILE) {
        file = open("console.in", READ_ONLY);
    }
    return file != NO_FILE && transfer(READ, file, &byte, 1) == 0 ? byte : -1;
}

void semihost_put(char symbol)
{
    call(WRITEC, &symbol);
}
