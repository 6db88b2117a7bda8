/* Sessions: the worked example, replays, the two slots, counters. */
#include <string.h>

#include "bench.h"

static bench b;

/* Paired, and with the handshake of the page answered: the session is pending. */
static void shake_hands(uint64_t now_ms)
{
    blob first = from_page("The session after it", "Handshake1"), wanted = from_page("The session after it", "Handshake2");
    bench_start(&b, "K7QF-3M9B");
    bench_pair(&b, "Label", 0);
    b.random = 0xc0;
    blob answer = bench_say(&b, &first, now_ms);
    CHECK_SAME(answer.bytes, answer.size, wanted);
}

static void the_session_is_that_of_the_page(void)
{
    blob record = from_page("The session after it", "Record");
    shake_hands(0);
    CHECK(!b.sensor.sessions.live.present && b.events[CLAW_SESSION] == 0);
    blob answer = bench_say(&b, &record, 0);
    CHECK(b.events[CLAW_SESSION] == 1 && b.events[CLAW_CLOCK_SET] == 1);
    CHECK(b.sensor.telemetry.clock_offset_ms == 0x019aa0000000);
    CHECK(answer.bytes[0] == CLAW_RECORD && bench_open(&b, 0).bytes[0] == 0x46);
}

static void the_first_record_makes_the_pending_key_the_current_one_for_good(void)
{
    blob record = from_page("The session after it", "Record");
    shake_hands(0);
    CHECK(b.sensor.slots[CLAW_PENDING].present && !b.sensor.slots[CLAW_CURRENT].present);
    bench_say(&b, &record, 0);
    CHECK(!b.sensor.slots[CLAW_PENDING].present && b.sensor.slots[CLAW_CURRENT].present);
    CHECK(bench_power_cycle(&b, 0) == CLAW_OK);
    CHECK(!b.sensor.slots[CLAW_PENDING].present && b.sensor.slots[CLAW_CURRENT].present);
}

static void a_replayed_record_changes_nothing(void)
{
    blob record = from_page("The session after it", "Record");
    shake_hands(0);
    bench_say(&b, &record, 0);
    CHECK(bench_say(&b, &record, 0).size == 0);
    CHECK(b.events[CLAW_CLOCK_SET] == 1);
}

static void a_repeated_handshake_gets_the_same_answer_and_a_replayed_one_none(void)
{
    blob first = from_page("The session after it", "Handshake1"), wanted = from_page("The session after it", "Handshake2");
    blob record = from_page("The session after it", "Record");
    shake_hands(0);
    blob again = bench_say(&b, &first, 1000);
    CHECK_SAME(again.bytes, again.size, wanted);
    bench_say(&b, &record, 1000);
    CHECK(bench_say(&b, &first, 5000).size == 0);
    CHECK(b.sensor.sessions.live.present && !b.sensor.sessions.pending.present);
}

static void a_handshake_with_any_bit_wrong_gets_silence(void)
{
    blob first = from_page("The session after it", "Handshake1");
    bench_start(&b, "K7QF-3M9B");
    bench_pair(&b, "Label", 0);
    for (size_t bit = 8; bit < first.size * 8; bit += 3) {
        blob damaged = first;
        damaged.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (damaged.bytes[41] == first.bytes[41]) { /* X25519 reads over the top bit, its tag does not */
            CHECK(bench_say(&b, &damaged, 0).size == 0);
        }
    }
    for (size_t size = 1; size < first.size; size++) {
        blob cut = first;
        cut.size = size;
        CHECK(bench_say(&b, &cut, 0).size == 0);
    }
    CHECK(!b.sensor.sessions.pending.present);
}

static void counters_are_taken_once_within_a_window_of_64(void)
{
    shake_hands(0);
    static const struct { uint32_t counter; bool taken; } steps[] = {
        {100, true}, {100, false}, {99, true}, {37, true}, {36, false}, {37, false},
        {163, true}, {99, false}, {101, true}, {0xfffffffe, true}, {0xffffffff, false}, {163, false},
    };
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        uint64_t before = b.sensor.sessions.live.taken;
        uint32_t highest = b.sensor.sessions.live.highest;
        b.counter = steps[i].counter - 1;
        bench_record(&b, "4fa0", 0); /* a type of a later version: opened, and read over */
        bool moved = b.sensor.sessions.live.taken != before || b.sensor.sessions.live.highest != highest;
        CHECK(moved == steps[i].taken);
    }
}

static void nothing_is_sent_when_the_counters_are_used_up(void)
{
    shake_hands(0);
    bench_record(&b, "41a3010002000301", 0);
    CHECK(bench_open(&b, 0).bytes[0] == 0x46);
    b.sensor.sessions.live.next_sent = 0xffffffff;
    b.sent_count = 0;
    claw_poll(&b.sensor, 100000);
    CHECK(b.sent_count == 0);
}

void test_session(void)
{
    the_session_is_that_of_the_page();
    the_first_record_makes_the_pending_key_the_current_one_for_good();
    a_replayed_record_changes_nothing();
    a_repeated_handshake_gets_the_same_answer_and_a_replayed_one_none();
    a_handshake_with_any_bit_wrong_gets_silence();
    counters_are_taken_once_within_a_window_of_64();
    nothing_is_sent_when_the_counters_are_used_up();
}
