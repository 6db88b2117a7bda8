/* A sensor as a POSIX program, for tests and as an example of an application: it takes orders on stdin, one a line,
 * and says on stdout what happens. */
#define _XOPEN_SOURCE 700

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "board.h"

static const char USAGE[] =
    "clawgate-sensor (--tty PATH | --pty LINK) --keys FILE [--id ID] [--name NAME] [--label CODE] [--every MS]\n"
    "  --tty PATH    an existing serial line\n"
    "  --pty LINK    makes a pseudo terminal and a link to it\n"
    "  --keys FILE   keeps the keys, in the place of flash\n"
    "  --label CODE  the code on its label; without it the unit takes entered codes only\n"
    "  --every MS    one reading in that time; 0 (the default): only by the order `read`\n"
    "orders on stdin: button | code XXXX-XXXX | read N | power-cycle | reset | held | quit\n";

typedef struct {
    claw_sensor sensor;
    posix_board board;
    claw_board functions;
    claw_unit unit;
    uint8_t queue[65536];
    uint64_t started_ms; /* this unit's clock starts at its power-on */
    uint64_t every_ms;
    uint64_t next_reading_ms;
    uint64_t readings;
    char orders[256];
    size_t orders_size;
    bool quit;
} program;

static uint64_t uptime_ms(const program *p)
{
    return posix_now_ms() - p->started_ms;
}

static void say_status(const char *what, claw_status status)
{
    static const char *const names[] = {
        [CLAW_OK] = "ok",
        [CLAW_BAD_UNIT] = "the unit's description breaks a limit, or its label code is mistyped",
        [CLAW_BAD_FLASH] = "the stored keys are damaged: reset the unit",
        [CLAW_NO_RANDOM] = "no randomness",
        [CLAW_NO_FLASH] = "the keys could not be stored",
        [CLAW_BAD_CODE] = "this is not a code: check what was typed",
        [CLAW_NO_LABEL] = "this unit has no label code",
        [CLAW_BAD_READING] = "no reading, or one that is too long",
    };
    printf("%s: %s\n", what, names[status]);
    fflush(stdout);
}

static void power_on(program *p)
{
    uint8_t flash[CLAW_FLASH_SIZE];
    p->started_ms = posix_now_ms();
    p->next_reading_ms = p->every_ms;
    p->board.out_size = 0;
    say_status("start", claw_start(&p->sensor, &p->functions, &p->unit, posix_load_flash(&p->board, flash), 0));
}

static void take_reading(program *p)
{
    claw_value value = {"temperature", "Cel", (double)(++p->readings)};
    claw_status status = claw_report(&p->sensor, &value, 1, uptime_ms(p));
    if (status != CLAW_OK) {
        say_status("reading", status);
    }
}

static void obey(program *p, const char *order)
{
    if (strcmp(order, "button") == 0) {
        say_status("button", claw_button(&p->sensor, uptime_ms(p)));
    } else if (strncmp(order, "code ", 5) == 0) {
        say_status("code", claw_enter_code(&p->sensor, order + 5, uptime_ms(p)));
    } else if (strncmp(order, "read ", 5) == 0) {
        for (long left = strtol(order + 5, NULL, 10); left > 0; left--) {
            take_reading(p);
        }
    } else if (strcmp(order, "power-cycle") == 0) {
        power_on(p);
    } else if (strcmp(order, "reset") == 0) {
        say_status("reset", claw_factory_reset(&p->sensor, uptime_ms(p)));
    } else if (strcmp(order, "held") == 0) {
        printf("held %llu\n", (unsigned long long)claw_held(&p->sensor));
        fflush(stdout);
    } else if (strcmp(order, "quit") == 0) {
        p->quit = true;
    } else {
        printf("unknown order: %s\n%s", order, USAGE);
        fflush(stdout);
    }
}

static void take_orders(program *p)
{
    ssize_t got = read(STDIN_FILENO, p->orders + p->orders_size, sizeof p->orders - 1 - p->orders_size);
    if (got <= 0) {
        p->quit = true;
        return;
    }
    p->orders_size += (size_t)got;
    char *end;
    while ((end = memchr(p->orders, '\n', p->orders_size)) != NULL) {
        *end = '\0';
        obey(p, p->orders);
        size_t used = (size_t)(end + 1 - p->orders);
        p->orders_size -= used;
        memmove(p->orders, end + 1, p->orders_size);
    }
    if (p->orders_size == sizeof p->orders - 1) {
        p->orders_size = 0; /* longer than any order */
    }
}

/* Waits for the line, an order or the next time that something is due. */
static void turn(program *p)
{
    uint64_t due_ms = claw_poll(&p->sensor, uptime_ms(p));
    if (p->every_ms > 0) {
        while (uptime_ms(p) >= p->next_reading_ms) {
            take_reading(p);
            p->next_reading_ms += p->every_ms;
            due_ms = 0;
        }
        due_ms = due_ms < p->next_reading_ms ? due_ms : p->next_reading_ms;
    }
    uint64_t now_ms = uptime_ms(p);
    int wait_ms = due_ms <= now_ms ? 0 : due_ms - now_ms > 60000 ? 60000 : (int)(due_ms - now_ms);
    struct pollfd wait[2] = {{p->board.line, (short)(POLLIN | (p->board.out_size > 0 ? POLLOUT : 0)), 0},
                             {STDIN_FILENO, POLLIN, 0}};
    if (poll(wait, 2, wait_ms) <= 0) {
        return;
    }
    posix_flush(&p->board);
    if (wait[0].revents & POLLIN) {
        uint8_t bytes[1024];
        ssize_t got = read(p->board.line, bytes, sizeof bytes);
        if (got > 0) {
            claw_receive(&p->sensor, bytes, (size_t)got, uptime_ms(p));
        }
    }
    if (wait[0].revents & (POLLHUP | POLLERR)) {
        p->quit = true;
    }
    if (wait[1].revents & (POLLIN | POLLHUP)) {
        take_orders(p);
    }
}

int main(int argc, char **argv)
{
    static program p;
    const char *tty = NULL, *pty = NULL;
    p.unit = (claw_unit){"c-sensor", "C sensor", "temperature:Cel", "sdk-c 1.0.0", NULL, CLAW_UART, p.queue, sizeof p.queue, NULL, 0, 0};
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--tty") == 0) {
            tty = value;
        } else if (strcmp(argv[i], "--pty") == 0) {
            pty = value;
        } else if (strcmp(argv[i], "--keys") == 0) {
            p.board.flash_file = value;
        } else if (strcmp(argv[i], "--id") == 0) {
            p.unit.device_id = value;
        } else if (strcmp(argv[i], "--name") == 0) {
            p.unit.name = value;
        } else if (strcmp(argv[i], "--label") == 0) {
            p.unit.label = value;
        } else if (strcmp(argv[i], "--every") == 0) {
            p.every_ms = strtoul(value, NULL, 10);
        } else {
            argc = 0; /* shows the usage */
        }
    }
    if (argc % 2 == 0 || p.board.flash_file == NULL || (tty == NULL) == (pty == NULL)) {
        fputs(USAGE, stderr);
        return 2;
    }
    if (!(tty != NULL ? posix_open_tty(&p.board, tty) : posix_make_pty(&p.board, pty))) {
        perror(tty != NULL ? tty : pty);
        return 1;
    }
    p.functions = posix_functions(&p.board);
    power_on(&p);
    while (!p.quit) {
        turn(&p);
    }
    claw_bye(&p.sensor);
    posix_flush(&p.board);
    return 0;
}
