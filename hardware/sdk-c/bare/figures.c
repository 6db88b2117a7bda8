/* What a pairing, a session and a reading cost: the worked example of docs/protocol.md, played to a sensor on the board.
 * Built in the place of main.c. Under `hardware/boards/run --icount` a nanosecond is one instruction, and the figures are
 * the same in every run. */
#include <string.h>

#include "board.h"
#include "clawgate.h"
#include "console.h"
#include "example.h"
#include "session.h"
#include "startup.h"

static claw_sensor sensor;
static uint8_t queue[512];
static uint8_t next_random;
static uint8_t sent[CLAW_MESSAGE_MAX];
static claw_inbox far_end;
static size_t sent_size;

static bool count_up(void *context, uint8_t *out, size_t size)
{
    (void)context;
    for (size_t i = 0; i < size; i++) {
        out[i] = next_random++;
    }
    return true;
}

static bool save(void *context, const uint8_t *bytes, size_t size)
{
    (void)context;
    (void)bytes;
    (void)size;
    return true;
}

static bool take(void *context, const uint8_t *bytes, size_t size)
{
    (void)context;
    (void)bytes;
    (void)size;
    return true;
}

/* Keeps the message: only where what was sent is compared, since it costs too. */
static bool keep(void *context, const uint8_t *bytes, size_t size)
{
    (void)context;
    for (size_t i = 0; i < size; i++) {
        size_t message = claw_inbox_byte(&far_end, bytes[i]);
        if (message > 0) {
            memcpy(sent, far_end.bytes, message);
            sent_size = message;
        }
    }
    return true;
}

static void say(const char *name, uint64_t value)
{
    print("figure ");
    print(name);
    print(" ");
    print_number(value);
    print("\n");
}

/* Gives it a message in its frame, and how long the answer took. */
static uint64_t tell(const uint8_t *message, size_t size)
{
    static claw_outbox outbox;
    size_t frame_size;
    memcpy(outbox.message, message, size);
    const uint8_t *frame = claw_outbox_frame(&outbox, size, &frame_size);
    uint64_t start_ns = board_now_ns();
    claw_receive(&sensor, frame, frame_size, 0);
    return board_now_ns() - start_ns;
}

static void check(const uint8_t *wanted, size_t size)
{
    if (sent_size != size || memcmp(sent, wanted, size) != 0) {
        print("wrong\n");
    }
}

#define TELL(message) tell(message, sizeof message)
#define CHECK(message) check(message, sizeof message)

/* An Ack with these two numbers, sealed as the gateway would. */
static void ack(uint8_t safe, uint8_t next, uint32_t counter)
{
    claw_session *live = &sensor.sessions.live;
    uint8_t record[64] = {0x23, live->index, 0, 0, 0, (uint8_t)counter, 0x41, 0xa3, 1, 0x1b};
    for (size_t i = 0; i < 8; i++) {
        record[10 + i] = (uint8_t)(sensor.telemetry.epoch >> (56 - 8 * i));
    }
    memcpy(record + 18, (const uint8_t[]){2, safe, 3, next}, 4);
    claw_seal(live->from_gateway, counter, record, 6, record + 6, 16);
    tell(record, 6 + 16 + 16);
}

static void pair_and_measure(void)
{
    uint64_t m1_ns, m3_ns, m5_ns, handshake_ns, reading_ns;
    claw_value value = {"temperature", "Cel", 21.5};

    claw_button(&sensor, 0);
    next_random = 0x80;
    m1_ns = TELL(LABEL_M1);
    CHECK(LABEL_M2);
    m3_ns = TELL(LABEL_M3);
    CHECK(LABEL_M4);
    m5_ns = TELL(LABEL_M5);
    CHECK(LABEL_M6);
    next_random = 0xc0;
    handshake_ns = TELL(SESSION_HANDSHAKE1);
    CHECK(SESSION_HANDSHAKE2);
    TELL(SESSION_RECORD);
    ack(0, 1, 1);
    sensor.board.send = take;
    uint64_t start_ns = board_now_ns();
    claw_report(&sensor, &value, 1, 1000);
    claw_poll(&sensor, 1000);
    reading_ns = board_now_ns() - start_ns;
    if (sensor.telemetry.next != 2) {
        print("wrong\n");
    }
    say("pairing", m1_ns + m3_ns + m5_ns);
    say("longest-step", m1_ns > m3_ns ? (m1_ns > m5_ns ? m1_ns : m5_ns) : (m3_ns > m5_ns ? m3_ns : m5_ns));
    say("handshake", handshake_ns);
    say("reading", reading_ns);
    say("stack", stack_peak());
    say("sensor", sizeof sensor);
}

int main(void)
{
    static const claw_board board = {NULL, count_up, save, keep, NULL};
    static const claw_unit unit = {"th-kit", "TH-Kit", "temperature:Cel", "1.0.0", "K7QF-3M9B", CLAW_UART, queue, sizeof queue, NULL, 0, 0};
    board_start();
    if (claw_start(&sensor, &board, &unit, NULL, 0) != CLAW_OK) {
        print("wrong\n");
    }
    memset(sensor.static_secret, 0x22, sizeof sensor.static_secret);
    crypto_x25519_public_key(sensor.static_public, sensor.static_secret);
    pair_and_measure();
    print("end\n");
    for (;;) {
        __asm volatile("wfi");
    }
}
