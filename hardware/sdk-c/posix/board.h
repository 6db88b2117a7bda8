/* The board under a sensor on a POSIX system: a terminal, a file for its flash, /dev/urandom, the clock. */
#ifndef CLAW_BOARD_H
#define CLAW_BOARD_H

#include "clawgate.h"

typedef struct {
    int line;
    int random;
    const char *flash_file;
    uint8_t out[16384]; /* what the line has not yet taken */
    size_t out_size;
} posix_board;

/* Opens an existing terminal, raw; or makes a pseudo terminal and a link to it. Gives whether it worked. */
bool posix_open_tty(posix_board *board, const char *path);
bool posix_make_pty(posix_board *board, const char *link);
/* Milliseconds of the monotonic clock. */
uint64_t posix_now_ms(void);
/* What is in the flash file: CLAW_FLASH_SIZE bytes into `flash`, and gives it; NULL when there is no file. A file that
 * cannot be read, or of another size, gives bytes that no sensor takes: damage is not the same as nothing. */
const uint8_t *posix_load_flash(const posix_board *board, uint8_t flash[CLAW_FLASH_SIZE]);
/* Writes what waits, as far as the line takes it. */
void posix_flush(posix_board *board);
/* The functions of the SDK over this board. */
claw_board posix_functions(posix_board *board);

#endif
