/* Readings: held until they are safe, sent again, given way; commands. */
#include <stdio.h>
#include <string.h>

#include "bench.h"

static bench b;

/* Live, Hello said; the epoch is 112233..., and the next record of the sensor answers what the test says. */
static void begin(void)
{
    blob first = from_page("The session after it", "Handshake1");
    bench_start(&b, "K7QF-3M9B");
    bench_pair(&b, "Label", 0);
    b.random = 0xc0;
    bench_say(&b, &first, 0);
    b.sensor.telemetry.epoch = UINT64_C(0x1122334455667788);
    bench_record(&b, "41a3010002000301", 0);
}

static void ack(unsigned safe, unsigned next, uint64_t now_ms)
{
    char hex[64];
    snprintf(hex, sizeof hex, "41a3011b1122334455667788 02%02x 03%02x", safe, next);
    bench_record(&b, hex, now_ms);
}

static void report(double value, uint64_t now_ms)
{
    claw_value reading = {"t", "Cel", value};
    CHECK(claw_report(&b.sensor, &reading, 1, now_ms) == CLAW_OK);
}

/* The n-th record sent since is a Readings that begins with this number, or (0) is not there. */
static bool begins_with(size_t n, uint8_t number)
{
    blob text = bench_open(&b, n);
    return number == 0 ? text.size == 0 : text.size > 14 && text.bytes[0] == 0x40 && text.bytes[13] == number;
}

static void a_reading_is_that_of_the_page(void)
{
    blob pack = from_line("Telemetry", "Readings"), with_uptime = from_line("Telemetry", "with uptime");
    begin();
    blob hello = bench_open(&b, 0);
    CHECK(hello.bytes[0] == 0x46 && hello.bytes[13] == 1);
    ack(0, 1, 0);
    CHECK(b.sent_count == 0);
    b.sensor.telemetry.made = 42;
    b.sensor.telemetry.first = 43;
    b.sensor.telemetry.next = 43;
    b.sensor.telemetry.safe = 42;
    report(22, 65000);
    report(23, 65250);
    claw_poll(&b.sensor, 65250);
    blob got = bench_open(&b, 0);
    CHECK(got.bytes[0] == 0x40 && memcmp(got.bytes, with_uptime.bytes, 12) == 0);
    CHECK(memcmp(got.bytes + got.size - 7, with_uptime.bytes + with_uptime.size - 7, 7) == 0);

    b.sensor.telemetry.clock_set = true;
    b.sensor.telemetry.clock_offset_ms = INT64_C(1700000000500) - 65000;
    ack(44, 45, 65250);
    b.sensor.telemetry.next = b.sensor.telemetry.first = 42;
    b.sensor.telemetry.made = b.sensor.telemetry.safe = 41;
    report(21.5, 65000);
    b.sent_count = 0;
    claw_poll(&b.sensor, 65000);
    got = bench_open(&b, 0);
    CHECK_SAME(got.bytes, got.size, pack);
}

static void an_uptime_that_goes_back_begins_another_message(void)
{
    begin();
    ack(0, 1, 0);
    report(1, 500);
    report(2, 700);
    report(3, 600);
    claw_poll(&b.sensor, 700);
    CHECK(begins_with(0, 1) && begins_with(1, 3) && b.sent_count == 2);
    blob first = bench_open(&b, 0), second = bench_open(&b, 1);
    CHECK(memcmp(first.bytes + first.size - 6, "\x82\x19\x01\xf4\x18\xc8", 6) == 0);
    CHECK(memcmp(second.bytes + second.size - 4, "\x81\x19\x02\x58", 4) == 0);
}

static void a_reading_is_held_until_it_is_safe(void)
{
    begin();
    ack(0, 1, 0);
    report(1, 0);
    report(2, 0);
    claw_poll(&b.sensor, 0);
    CHECK(begins_with(0, 1) && b.sent_count == 1);
    ack(0, 3, 10);
    CHECK(claw_held(&b.sensor) == 2);
    ack(1, 3, 20);
    CHECK(claw_held(&b.sensor) == 1);
    ack(2, 3, 30);
    CHECK(claw_held(&b.sensor) == 0);
    CHECK(claw_poll(&b.sensor, 30) > 1000000 || b.sensor.run.stage != CLAW_RUN_NONE);
}

static void without_news_one_record_is_sent_again_and_the_wait_doubles(void)
{
    begin();
    ack(0, 1, 0);
    report(1, 0);
    claw_poll(&b.sensor, 0);
    report(2, 1);
    b.sent_count = 0;
    claw_poll(&b.sensor, 2);
    CHECK(begins_with(0, 2));
    uint64_t at = 3000;
    static const uint64_t waits[] = {6000, 12000, 24000, 30000, 30000};
    for (size_t i = 0; i < 5; i++) {
        b.sent_count = 0;
        claw_poll(&b.sensor, at - 1);
        CHECK(b.sent_count == 0);
        claw_poll(&b.sensor, at);
        CHECK(begins_with(0, 1) && b.sent_count == 1);
        at += waits[i];
    }
    ack(2, 3, at);
    CHECK(b.sensor.telemetry.wait_ms == 3000 && claw_held(&b.sensor) == 0);
}

static void an_ack_that_says_the_same_again_lets_it_go_back_once_a_second(void)
{
    begin();
    ack(0, 1, 0);
    report(1, 0);
    claw_poll(&b.sensor, 0);
    ack(0, 1, 100);
    CHECK(begins_with(0, 1) && b.sent_count == 1);
    ack(0, 1, 1099);
    CHECK(b.sent_count == 0);
    ack(0, 1, 1100);
    CHECK(begins_with(0, 1));
}

/* Readings in the n-th record sent since. */
static size_t carried(size_t n)
{
    blob text = bench_open(&b, n);
    /* type, map of 4, key 1 and epoch, key 2 and number, key 3: a head of one byte, or of two from 24 on */
    size_t at = text.bytes[13] < 24 ? 15 : text.bytes[13] == 24 ? 16 : 17;
    return text.size < 20 ? 0 : text.bytes[at] == 0x98 ? text.bytes[at + 1] : text.bytes[at] & 31;
}

static void after_a_loss_a_record_has_half_as_many_readings_and_more_again_with_news(void)
{
    begin();
    ack(0, 1, 0);
    for (int i = 0; i < 16; i++) {
        report(i, 0);
    }
    b.sent_count = 0;
    claw_poll(&b.sensor, 0);
    size_t whole = carried(0), rest = carried(b.sent_count - 1);
    CHECK(whole >= 4 && rest >= 1 && b.sensor.telemetry.next == 17);
    ack(0, 1, 10); /* the same again: the first was lost */
    size_t half = carried(0);
    CHECK(begins_with(0, 1) && half == (rest < 2 ? 1 : rest / 2));
    /* Nothing comes any more: one record, half of that. */
    b.sent_count = 0;
    claw_poll(&b.sensor, 3000);
    CHECK(begins_with(0, 1) && b.sent_count == 1 && carried(0) <= (half < 2 ? 1 : half / 2));
    CHECK(b.sensor.telemetry.most == 1);
    ack(1, 2, 3100);
    CHECK(b.sensor.telemetry.most == 2);
    ack(2, 3, 3200);
    CHECK(b.sensor.telemetry.most == 3);
    claw_telemetry_begin(&b.sensor);
    CHECK(b.sensor.telemetry.most == 0);
}

static void a_full_memory_drops_the_oldest_and_says_so_before_it_goes_on(void)
{
    begin();
    for (int i = 0; i < 100; i++) {
        report(i, 0);
    }
    uint64_t held = claw_held(&b.sensor);
    CHECK(held < 100 && held > 20 && b.events[CLAW_DROPPED] == 100 - held);
    ack(0, 1, 0);
    blob gap = bench_open(&b, 0);
    CHECK(gap.size > 16 && gap.bytes[0] == 0x42 && gap.bytes[13] == 1 && gap.bytes[16] == 100 - held);
    CHECK(bench_open(&b, 1).bytes[14] == 100 - held + 1);
    CHECK(b.sensor.telemetry.next == 101);
}

static void a_line_without_room_loses_nothing(void)
{
    begin();
    ack(0, 1, 0);
    report(1, 0);
    b.line_is_full = true;
    CHECK(claw_poll(&b.sensor, 0) < 100);
    b.line_is_full = false;
    claw_poll(&b.sensor, 5);
    CHECK(begins_with(0, 1));
}

static void an_ack_for_what_was_never_made_is_ignored(void)
{
    begin();
    ack(0, 1, 0);
    report(1, 0);
    ack(1, 3, 0);
    CHECK(claw_held(&b.sensor) == 1);
    ack(1, 1, 0);
    CHECK(claw_held(&b.sensor) == 1);
    bench_record(&b, "41a3011b112233445566778902010302", 0); /* another epoch */
    CHECK(claw_held(&b.sensor) == 1);
}

static void hello_is_said_again_until_it_is_answered(void)
{
    begin();
    b.sent_count = 0;
    claw_poll(&b.sensor, 2999);
    CHECK(b.sent_count == 0);
    claw_poll(&b.sensor, 3000);
    CHECK(bench_open(&b, 0).bytes[0] == 0x46);
    b.sent_count = 0;
    claw_poll(&b.sensor, 8999);
    CHECK(b.sent_count == 0);
    claw_poll(&b.sensor, 9000);
    CHECK(b.sent_count == 1);
}

static void commands_are_carried_out_and_answered(void)
{
    blob reply = from_line("Telemetry", "Reply"), refused = from_hex("45a201070201"), done;
    begin();
    ack(0, 1, 0);
    bench_record(&b, "44a301070201030a", 0); /* identify, 10 s */
    done = bench_open(&b, 0);
    CHECK_SAME(done.bytes, done.size, reply);
    CHECK(b.events[CLAW_BLINK] == 1);
    bench_record(&b, "44a301070202031903e8", 0); /* open the window, 1000 s */
    done = bench_open(&b, 0);
    CHECK_SAME(done.bytes, done.size, reply);
    CHECK(b.sensor.window.ceremony == CLAW_LABEL && b.sensor.window.until_ms == 300000);
    bench_record(&b, "44a201070209", 0); /* no such command */
    done = bench_open(&b, 0);
    CHECK_SAME(done.bytes, done.size, refused);
    report(1, 0);
    bench_record(&b, "44a201070203", 0); /* unpair */
    CHECK(b.sent_count >= 1 && b.events[CLAW_UNPAIRED] == 1);
    CHECK(!claw_is_paired(&b.sensor) && claw_held(&b.sensor) == 0 && !b.sensor.sessions.live.present);
    CHECK(bench_power_cycle(&b, 0) == CLAW_OK && !claw_is_paired(&b.sensor));
}

static void an_unpair_that_the_flash_refuses_is_refused_and_changes_nothing(void)
{
    blob refused = from_hex("45a201070201"), answer;
    begin();
    ack(0, 1, 0);
    report(1, 0);
    b.save_fails = true;
    bench_record(&b, "44a201070203", 0);
    answer = bench_open(&b, 0);
    CHECK_SAME(answer.bytes, answer.size, refused);
    CHECK(b.events[CLAW_UNPAIRED] == 0 && claw_is_paired(&b.sensor) && claw_held(&b.sensor) == 1);
    CHECK(claw_factory_reset(&b.sensor, 0) == CLAW_NO_FLASH);
    CHECK(claw_is_paired(&b.sensor) && b.sensor.sessions.live.present && claw_held(&b.sensor) == 1);
    b.save_fails = false;
    CHECK(bench_power_cycle(&b, 0) == CLAW_OK && claw_is_paired(&b.sensor));
    CHECK(claw_factory_reset(&b.sensor, 0) == CLAW_OK);
    CHECK(bench_power_cycle(&b, 0) == CLAW_OK && !claw_is_paired(&b.sensor));
}

static void unpaired_is_said_only_when_the_flash_forgot(void)
{
    begin();
    ack(0, 1, 0);
    b.line_is_full = true;
    bench_record(&b, "44a201070203", 0);
    CHECK(b.sent_count == 0 && !claw_is_paired(&b.sensor) && b.sensor.sessions.live.present);
    CHECK(bench_power_cycle(&b, 0) == CLAW_OK && !claw_is_paired(&b.sensor)); /* before the reply was out */
}

static void a_time_that_no_clock_shows_is_not_taken(void)
{
    begin();
    ack(0, 1, 0);
    bench_record(&b, "43a1011b7fffffffffffffff", 0);
    CHECK(!claw_look(&b.sensor, 0).clock_set);
    bench_record(&b, "43a1011b0000018bcfe569f4", 0);
    CHECK(claw_look(&b.sensor, 0).clock_set);
}

static void a_bye_ends_the_session_and_keeps_the_readings(void)
{
    begin();
    ack(0, 1, 0);
    report(1, 0);
    bench_record(&b, "47a0", 0);
    CHECK(!b.sensor.sessions.live.present && b.events[CLAW_SESSION_ENDED] == 1 && claw_held(&b.sensor) == 1);
}

static void what_is_no_reading_is_not_taken(void)
{
    claw_value value = {"t", "Cel", 1e308};
    begin();
    CHECK(claw_report(&b.sensor, &value, 0, 0) == CLAW_BAD_READING);
    value.value *= 10;
    CHECK(claw_report(&b.sensor, &value, 1, 0) == CLAW_BAD_READING);
    value.value = 1;
    char name[300];
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = '\0';
    value.name = name;
    CHECK(claw_report(&b.sensor, &value, 1, 0) == CLAW_BAD_READING);
    value.name = "\xff";
    CHECK(claw_report(&b.sensor, &value, 1, 0) == CLAW_BAD_READING);
    CHECK(claw_held(&b.sensor) == 0);
}

void test_telemetry(void)
{
    a_reading_is_that_of_the_page();
    an_uptime_that_goes_back_begins_another_message();
    a_reading_is_held_until_it_is_safe();
    without_news_one_record_is_sent_again_and_the_wait_doubles();
    an_ack_that_says_the_same_again_lets_it_go_back_once_a_second();
    after_a_loss_a_record_has_half_as_many_readings_and_more_again_with_news();
    a_full_memory_drops_the_oldest_and_says_so_before_it_goes_on();
    a_line_without_room_loses_nothing();
    an_ack_for_what_was_never_made_is_ignored();
    hello_is_said_again_until_it_is_answered();
    commands_are_carried_out_and_answered();
    an_unpair_that_the_flash_refuses_is_refused_and_changes_nothing();
    unpaired_is_said_only_when_the_flash_forgot();
    a_time_that_no_clock_shows_is_not_taken();
    a_bye_ends_the_session_and_keeps_the_readings();
    what_is_no_reading_is_not_taken();
}
