/* A sensor as firmware: the main loop of every board here. It takes orders on its console and says there what happens,
 * in the words of hardware/boards/README.md. */
#include <string.h>

#include "board.h"
#include "clawgate.h"
#include "console.h"
#include "line.h"
#include "semihost.h"
#include "startup.h"

#ifndef QUEUE_SIZE
#define QUEUE_SIZE 4096
#endif

static claw_sensor sensor;
static claw_flash flash;
static uint8_t queue[QUEUE_SIZE];
static char device_id[CLAW_ID_MAX + 1], label[16];

static uint32_t every_ms, readings;
static uint64_t next_reading_ms;
/* What the core worked on the run of pairing that goes on, on the last one that paired, on the last session's handshake, on
 * the last reading. */
static uint64_t run_ns, pairing_ns, session_ns, reading_ns;

static void say(const char *text)
{
    print(text);
    print("\n");
}

static void say_status(claw_status status)
{
    static const char *const words[] = {
        [CLAW_BAD_UNIT] = "the factory page breaks a limit, or its label code is mistyped",
        [CLAW_BAD_FLASH] = "the stored keys are damaged: reset the unit",
        [CLAW_NO_RANDOM] = "no random source: pairing is refused",
        [CLAW_NO_FLASH] = "the keys could not be stored",
        [CLAW_BAD_CODE] = "this is not a code: check what was typed",
        [CLAW_NO_LABEL] = "this unit has no label code",
        [CLAW_BAD_READING] = "no reading, or one that is too long",
    };
    if (status != CLAW_OK) {
        say(words[status]);
    }
}

static const char *failure_words(uint32_t failure)
{
    static const char *const words[] = {
        [CLAW_BROKEN_RULES] = "the gateway, or somebody between, broke the rules",
        [CLAW_WRONG_CODE] = "the codes differ: check the code and open the window again",
        [CLAW_REFUSED] = "the gateway gave up: check the code and try again",
        [CLAW_TIME_OVER] = "the time is over: try again",
        [CLAW_CANCELLED] = "another window was opened, or the unit was reset",
        [CLAW_NOT_STORED] = "the keys could not be stored",
        [CLAW_NOTHING_RANDOM] = "the random source failed",
    };
    return words[failure];
}

static void tell(void *context, claw_event event, uint32_t value)
{
    claw_state state = claw_look(&sensor, board_now_ms());
    (void)context;
    switch (event) {
    case CLAW_WINDOW_OPEN:
        say(state.window == 2 ? "pairing window open for the label's code" : "pairing window open for the entered code");
        return;
    case CLAW_WINDOW_CLOSED:
        say("pairing window closed");
        return;
    case CLAW_PAIRED:
        print("paired with ");
        say(state.gateway);
        return;
    case CLAW_KEY_PROVEN:
        print("key proven ");
        print_hex(state.pairing_id);
        print("\n");
        return;
    case CLAW_PAIRING_FAILED:
        print("pairing failed: ");
        say(failure_words(value));
        return;
    case CLAW_SESSION:
        say("session open");
        return;
    case CLAW_SESSION_ENDED:
        say("session closed by the gateway");
        return;
    case CLAW_CLOCK_SET:
        say("clock set");
        return;
    case CLAW_BLINK:
        print("blink for ");
        print_number(value);
        say(" s");
        return;
    case CLAW_UNPAIRED:
        say("reset: all keys erased");
        return;
    case CLAW_DROPPED:
        return; /* `status` tells */
    }
}

static void say_bool(const char *name, bool value)
{
    print(name);
    print(value ? "true" : "false");
}

static void say_number(const char *name, uint64_t value)
{
    print(name);
    print_number(value);
}

static void say_state(void)
{
    static const char *const windows[] = {"null", "\"issued\"", "\"label\""};
    claw_state state = claw_look(&sensor, board_now_ms());
    say_bool("{\"paired\":", claw_is_paired(&sensor));
    say_bool(",\"connected\":", state.connected);
    print(",\"window\":");
    print(windows[state.window]);
    say_number(",\"held\":", claw_held(&sensor));
    say_number(",\"made\":", state.made);
    print(",\"epoch\":\"");
    print_hex(state.epoch);
    say_bool("\",\"clock_set\":", state.clock_set);
    say_number(",\"label_attempts\":", state.label_attempts);
    say_number(",\"stack\":", stack_peak());
    say_number(",\"pairing_ns\":", pairing_ns);
    say_number(",\"session_ns\":", session_ns);
    say_number(",\"reading_ns\":", reading_ns);
    say("}");
}

static bool save(void *context, const uint8_t *bytes, size_t size)
{
    (void)context;
    (void)size;
    return claw_pages_save(&flash, bytes);
}

static void take_reading(void)
{
    claw_value value = {"temperature", "Cel", (double)++readings};
    uint64_t start_ns = board_now_ns();
    say_status(claw_report(&sensor, &value, 1, board_now_ms()));
    claw_poll(&sensor, board_now_ms());
    reading_ns = board_now_ns() - start_ns;
}

static uint32_t number(const char *text)
{
    uint32_t value = 0;
    while (*text >= '0' && *text <= '9') {
        value = value * 10 + (uint32_t)(*text++ - '0');
    }
    return value;
}

static void obey(const char *order)
{
    uint64_t now_ms = board_now_ms();
    if (strcmp(order, "button") == 0) {
        say_status(claw_button(&sensor, now_ms));
    } else if (strncmp(order, "code ", 5) == 0) {
        say_status(claw_enter_code(&sensor, order + 5, now_ms));
    } else if (strncmp(order, "read ", 5) == 0) {
        for (uint32_t left = number(order + 5); left > 0; left--) {
            take_reading();
        }
    } else if (strncmp(order, "every ", 6) == 0) {
        every_ms = number(order + 6);
        next_reading_ms = now_ms;
    } else if (strcmp(order, "reset") == 0) {
        claw_status status = claw_factory_reset(&sensor, now_ms);
        say_status(status);
        if (status == CLAW_OK) {
            say("reset: all keys erased");
        }
    } else if (strcmp(order, "status") == 0) {
        say_state();
    } else {
        say("unknown: use button, code CODE, reset, status, read N or every MS");
    }
}

/* What is there to be done on the line. */
static void work(void)
{
    uint8_t bytes[64];
    size_t size = line_take(bytes, sizeof bytes);
    if (size == 0) {
        claw_poll(&sensor, board_now_ms());
        return;
    }
    bool ran = sensor.run.stage != CLAW_RUN_NONE, paired = sensor.run.stage == CLAW_RUN_SENT_M6;
    bool shook_hands = sensor.sessions.pending.present;
    uint64_t start_ns = board_now_ns();
    claw_receive(&sensor, bytes, size, board_now_ms());
    uint64_t spent_ns = board_now_ns() - start_ns;
    run_ns = (ran ? run_ns : 0) + spent_ns;
    if (sensor.sessions.pending.present && !shook_hands) {
        session_ns = spent_ns; /* the handshake's last bytes, with which the work begins */
    }
    if (sensor.run.stage == CLAW_RUN_SENT_M6 && !paired) {
        pairing_ns = run_ns;
    }
}

/* The factory page: the id, a newline, the label's code or nothing, a newline, perhaps the highest suite it is to do. */
static void read_factory_page(claw_unit *unit)
{
    const char *page = (const char *)(uintptr_t)FACTORY_AT;
    const char *const end = page + 64;
    for (size_t i = 0; page < end && *page != '\n' && i < sizeof device_id - 1; i++) {
        device_id[i] = *page++;
    }
    page += page < end && *page == '\n';
    for (size_t i = 0; page < end && *page != '\n' && i < sizeof label - 1; i++) {
        label[i] = *page++;
    }
    page += page < end && *page == '\n';
    unit->max_suite = page < end && (*page == '1' || *page == '2') ? (uint8_t)(*page - '0') : 0;
    unit->device_id = device_id;
    unit->label = label[0] == '\0' ? NULL : label;
}

static void start(void)
{
    static const claw_board board = {NULL, board_random, save, line_send, tell};
    uint8_t stored[CLAW_FLASH_SIZE];
    claw_unit unit = {NULL, "C board", "temperature:Cel", "sdk-c 1.0.0", NULL, CLAW_UART, queue, sizeof queue, NULL, 0, 0};
    claw_status status = CLAW_NO_FLASH;
    read_factory_page(&unit);
    if (semihost_flash(&flash)) {
        claw_pages_state found = claw_pages_load(&flash, stored);
        status = claw_start(&sensor, &board, &unit, found == CLAW_PAGES_EMPTY ? NULL : stored, board_now_ms());
    }
    say_status(status);
    say("ready");
}

int main(void)
{
    board_start();
    start();
    for (;;) {
        work();
        for (const char *order; (order = take_order()) != NULL;) {
            obey(order);
        }
        if (every_ms > 0 && board_now_ms() >= next_reading_ms) {
            take_reading();
            next_reading_ms += every_ms;
        }
        if (line_pump()) {
            continue;
        }
        /* The clock's interrupt ends the sleep after a millisecond. With interrupts held back none is missed between
         * the question and the sleep; one that waits still ends it. */
        __asm volatile("cpsid i" ::: "memory");
        if (line_is_empty()) {
            __asm volatile("wfi" ::: "memory");
        }
        __asm volatile("cpsie i" ::: "memory");
    }
}
