#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE

#include "board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static bool make_raw(int tty)
{
    struct termios mode;
    if (tcgetattr(tty, &mode) != 0) {
        return false;
    }
    cfmakeraw(&mode);
    mode.c_cflag |= CLOCAL | CREAD;
    cfsetispeed(&mode, B115200);
    cfsetospeed(&mode, B115200);
    return tcsetattr(tty, TCSANOW, &mode) == 0;
}

bool posix_open_tty(posix_board *board, const char *path)
{
    board->line = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK);
    return board->line >= 0 && make_raw(board->line);
}

bool posix_make_pty(posix_board *board, const char *link)
{
    board->line = posix_openpt(O_RDWR | O_NOCTTY);
    if (board->line < 0 || grantpt(board->line) != 0 || unlockpt(board->line) != 0) {
        return false;
    }
    const char *name = ptsname(board->line);
    /* Kept open for ever: without it the master reads an error whenever nobody else has the other end. */
    int other_end = name == NULL ? -1 : open(name, O_RDWR | O_NOCTTY);
    if (other_end < 0 || !make_raw(other_end) || fcntl(board->line, F_SETFL, O_NONBLOCK) != 0) {
        return false;
    }
    unlink(link);
    return symlink(name, link) == 0;
}

uint64_t posix_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

const uint8_t *posix_load_flash(const posix_board *board, uint8_t flash[CLAW_FLASH_SIZE])
{
    uint8_t content[CLAW_FLASH_SIZE + 1];
    int file = open(board->flash_file, O_RDONLY);
    if (file < 0 && errno == ENOENT) {
        return NULL;
    }
    memset(flash, 0, CLAW_FLASH_SIZE);
    if (file >= 0) {
        if (read(file, content, sizeof content) == CLAW_FLASH_SIZE) {
            memcpy(flash, content, CLAW_FLASH_SIZE);
        }
        close(file);
    }
    return flash;
}

static bool give_random(void *context, uint8_t *out, size_t size)
{
    posix_board *board = context;
    while (size > 0) {
        ssize_t got = read(board->random, out, size);
        if (got <= 0) {
            return false;
        }
        out += got;
        size -= (size_t)got;
    }
    return true;
}

static bool sync_folder_of(const char *path)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash == NULL ? 1 : (int)(slash - path + 1), slash == NULL ? "." : path);
    int opened = open(folder, O_RDONLY);
    bool synced = opened >= 0 && fsync(opened) == 0;
    if (opened >= 0) {
        close(opened);
    }
    return synced;
}

/* A new file takes the place of the old one: a power cut leaves one of the two. */
static bool save(void *context, const uint8_t *bytes, size_t size)
{
    posix_board *board = context;
    char fresh[4096];
    snprintf(fresh, sizeof fresh, "%s.new", board->flash_file);
    int file = open(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0) {
        return false;
    }
    bool written = write(file, bytes, size) == (ssize_t)size && fsync(file) == 0;
    written = close(file) == 0 && written;
    return written && rename(fresh, board->flash_file) == 0 && sync_folder_of(board->flash_file);
}

void posix_flush(posix_board *board)
{
    while (board->out_size > 0) {
        ssize_t taken = write(board->line, board->out, board->out_size);
        if (taken <= 0) {
            return;
        }
        board->out_size -= (size_t)taken;
        memmove(board->out, board->out + taken, board->out_size);
    }
}

static bool send_frame(void *context, const uint8_t *bytes, size_t size)
{
    posix_board *board = context;
    if (size > sizeof board->out - board->out_size) {
        posix_flush(board);
        if (size > sizeof board->out - board->out_size) {
            return false;
        }
    }
    memcpy(board->out + board->out_size, bytes, size);
    board->out_size += size;
    posix_flush(board);
    return true;
}

static void say(void *context, claw_event event, uint32_t value)
{
    static const char *const names[] = {
        [CLAW_WINDOW_OPEN] = "window-open",       [CLAW_WINDOW_CLOSED] = "window-closed",
        [CLAW_PAIRED] = "paired",                 [CLAW_PAIRING_FAILED] = "pairing-failed",
        [CLAW_SESSION] = "session",               [CLAW_SESSION_ENDED] = "session-ended",
        [CLAW_CLOCK_SET] = "clock-set",           [CLAW_BLINK] = "blink",
        [CLAW_KEY_PROVEN] = "key-proven",         [CLAW_UNPAIRED] = "unpaired",             [CLAW_DROPPED] = "dropped",
    };
    (void)context;
    printf("%s %u\n", names[event], (unsigned)value);
    fflush(stdout);
}

claw_board posix_functions(posix_board *board)
{
    board->random = open("/dev/urandom", O_RDONLY);
    return (claw_board){board, give_random, save, send_frame, say};
}
