/* Pairing: the worked example byte by byte, and what a bad gateway or a bad flash gets. */
#include <string.h>

#include "bench.h"
#include "schedule.h"

#define LABEL "K7QF-3M9B"

static bench b;

static bool is_refuse(blob message)
{
    return message.size == 2 && message.bytes[0] == CLAW_REFUSE && message.bytes[1] == 0xa0;
}

static void both_ceremonies_give_the_bytes_of_the_page(void)
{
    static const char *const sections[] = {"Issued", "Label"};
    for (size_t i = 0; i < 2; i++) {
        bench_start(&b, LABEL);
        bench_pair(&b, sections[i], 1000);
        CHECK(b.events[CLAW_PAIRED] == 1);
        blob psk = from_page(sections[i], "psk");
        CHECK_SAME(b.sensor.slots[CLAW_PENDING].psk, 32, psk);
        CHECK(!b.sensor.slots[CLAW_CURRENT].present);
    }
    blob key_id = from_page("Label", "key id"), advertising = from_page("Label", "advertising key");
    CHECK_SAME(b.sensor.slots[CLAW_PENDING].key_id, 8, key_id);
    CHECK_SAME(b.sensor.slots[CLAW_PENDING].advertising_key, 32, advertising);
}

static void a_certificate_goes_to_the_gateway_in_m4_and_nothing_else_changes(void)
{
    static const uint8_t certificate[] = {0xc0, 0xff, 0xee};
    blob m1 = from_page("Label", "M1"), m2 = from_page("Label", "M2"), m3 = from_page("Label", "M3");
    blob k4 = from_page("Label", "k4"), plain = from_page("Label", "text of M4's part");
    bench_start(&b, LABEL);
    b.unit.certificate = certificate;
    b.unit.certificate_size = sizeof certificate;
    CHECK(bench_power_cycle(&b, 0) == CLAW_OK && claw_button(&b.sensor, 0) == CLAW_OK);
    b.random = 0x80;
    bench_say(&b, &m1, 0);
    blob m4 = bench_say(&b, &m3, 0);
    CHECK(m4.size > 100 && m4.bytes[0] == CLAW_M4);

    crypto_sha512_ctx hash;
    uint8_t ad[CLAW_HASH_SIZE];
    crypto_sha512_init(&hash);
    claw_hash_lv(&hash, m1.bytes, m1.size);
    claw_hash_lv(&hash, m2.bytes, m2.size);
    claw_hash_lv(&hash, m3.bytes, m3.size);
    claw_hash_without(&hash, m4.bytes, m4.size, CLAW_WITHOUT(3));
    crypto_sha512_final(&hash, ad);
    blob wanted = plain;
    wanted.bytes[0] = 0xa4;
    memcpy(wanted.bytes + plain.size, "\x04\x43\xc0\xff\xee", 5);
    wanted.size += 5;
    size_t sealed = wanted.size + CLAW_TAG_SIZE;
    uint8_t *part = m4.bytes + m4.size - sealed;
    CHECK(claw_open(k4.bytes, 0, ad, sizeof ad, part, sealed));
    CHECK_SAME(part, wanted.size, wanted);

    b.unit.certificate_size = CLAW_CERTIFICATE_MAX + 1;
    CHECK(bench_power_cycle(&b, 0) == CLAW_BAD_UNIT);
}

static void a_repeated_message_gets_identical_bytes_and_an_older_one_nothing(void)
{
    blob m1 = from_page("Label", "M1"), m3 = from_page("Label", "M3"), m5 = from_page("Label", "M5");
    blob m2 = from_page("Label", "M2"), m4 = from_page("Label", "M4"), m6 = from_page("Label", "M6"), again;
    bench_start(&b, LABEL);
    claw_button(&b.sensor, 0);
    b.random = 0x80;
    bench_say(&b, &m1, 1);
    again = bench_say(&b, &m1, 2);
    CHECK_SAME(again.bytes, again.size, m2);
    bench_say(&b, &m3, 3);
    again = bench_say(&b, &m3, 4);
    CHECK_SAME(again.bytes, again.size, m4);
    CHECK(bench_say(&b, &m1, 5).size == 0);
    int saves = b.saves;
    bench_say(&b, &m5, 6);
    again = bench_say(&b, &m5, 7);
    CHECK_SAME(again.bytes, again.size, m6);
    CHECK(b.saves == saves + 1);
    claw_poll(&b.sensor, 10001);
    CHECK(bench_say(&b, &m5, 10002).size == 0); /* the run is over */
}

static void a_closed_window_is_silent(void)
{
    blob m1 = from_page("Label", "M1");
    bench_start(&b, LABEL);
    CHECK(bench_say(&b, &m1, 0).size == 0);
    claw_button(&b.sensor, 0);
    CHECK(bench_say(&b, &m1, 300000).size == 0);
    CHECK(b.events[CLAW_WINDOW_CLOSED] == 1);
}

static void another_ceremony_version_or_suite_is_refused(void)
{
    blob m1 = from_page("Issued", "M1");
    bench_start(&b, LABEL);
    claw_button(&b.sensor, 0);
    CHECK(is_refuse(bench_say(&b, &m1, 0)));
    m1 = from_page("Label", "M1");
    m1.bytes[3] = 2;
    CHECK(is_refuse(bench_say(&b, &m1, 0)));
    m1.bytes[3] = 1;
    m1.bytes[6] = 2;
    CHECK(is_refuse(bench_say(&b, &m1, 0)));
    CHECK(b.sensor.label_attempts == 0);
}

static void a_wrong_label_tag_is_counted_before_it_is_judged_and_then_waits(void)
{
    blob m1 = from_page("Label", "M1"), m3 = from_page("Label", "M3");
    uint64_t now = 0;
    bench_start(&b, LABEL);
    claw_button(&b.sensor, now);
    m3.bytes[m3.size - 1] ^= 1;
    for (uint32_t attempt = 1; attempt <= 8; attempt++) {
        uint64_t wait = attempt <= 5 ? 1000 : (uint64_t)1000 << (attempt - 5);
        CHECK(bench_say(&b, &m1, now).bytes[0] == CLAW_M2);
        CHECK(is_refuse(bench_say(&b, &m3, now)));
        CHECK(b.sensor.label_attempts == attempt);
        CHECK(is_refuse(bench_say(&b, &m1, now + wait - 1)));
        now += wait;
    }
    CHECK(bench_power_cycle(&b, 0) == CLAW_OK);
    CHECK(b.sensor.label_attempts == 8 && b.sensor.window.label_ready_ms == 8000);
    claw_button(&b.sensor, 0);
    CHECK(b.sensor.label_attempts == 0 && b.sensor.window.label_ready_ms == 0);
    b.sensor.label_attempts = 4000000000u;
    claw_window_wait(&b.sensor, 0);
    CHECK(b.sensor.window.label_ready_ms == 300000);
}

static void an_attempt_that_cannot_be_counted_is_not_judged(void)
{
    blob m1 = from_page("Label", "M1"), m3 = from_page("Label", "M3");
    bench_start(&b, LABEL);
    claw_button(&b.sensor, 0);
    b.random = 0x80;
    bench_say(&b, &m1, 0);
    b.save_fails = true;
    CHECK(is_refuse(bench_say(&b, &m3, 0)));
}

static void an_entered_code_is_forgotten_after_three_unanswered_tags(void)
{
    blob m1 = from_page("Issued", "M1"), m3 = from_page("Issued", "M3"), m5 = from_page("Issued", "M5");
    bench_start(&b, NULL);
    CHECK(claw_button(&b.sensor, 0) == CLAW_NO_LABEL);
    CHECK(claw_enter_code(&b.sensor, "K7QF3M9A", 0) == CLAW_BAD_CODE);
    CHECK(claw_enter_code(&b.sensor, LABEL, 0) == CLAW_OK);
    m5.bytes[10] ^= 1;
    for (int run = 0; run < 3; run++) {
        m1.bytes[m1.size - 1] ^= 1;
        CHECK(bench_say(&b, &m1, 0).bytes[0] == CLAW_M2);
        CHECK(bench_say(&b, &m3, 0).bytes[0] == CLAW_M4);
        CHECK(is_refuse(bench_say(&b, &m5, 0)));
    }
    CHECK(b.sensor.window.ceremony == CLAW_CLOSED);
    CHECK(bench_say(&b, &m1, 0).size == 0);
}

static void a_second_different_message_ends_the_run(void)
{
    blob m1 = from_page("Label", "M1"), m3 = from_page("Label", "M3");
    bench_start(&b, LABEL);
    claw_button(&b.sensor, 0);
    b.random = 0x80;
    bench_say(&b, &m1, 0);
    bench_say(&b, &m3, 0);
    m3.bytes[10] ^= 1;
    CHECK(is_refuse(bench_say(&b, &m3, 0)));
    CHECK(b.sensor.run.stage == CLAW_RUN_NONE);
}

static void a_store_that_fails_leaves_the_keys_as_they_were(void)
{
    blob m1 = from_page("Label", "M1"), m3 = from_page("Label", "M3"), m5 = from_page("Label", "M5");
    bench_start(&b, LABEL);
    claw_button(&b.sensor, 0);
    b.random = 0x80;
    bench_say(&b, &m1, 0);
    bench_say(&b, &m3, 0);
    b.save_fails = true;
    CHECK(is_refuse(bench_say(&b, &m5, 0)));
    CHECK(!claw_is_paired(&b.sensor));
}

static void a_button_that_the_flash_refuses_keeps_the_count(void)
{
    bench_start(&b, LABEL);
    b.sensor.label_attempts = 7;
    b.save_fails = true;
    CHECK(claw_button(&b.sensor, 0) == CLAW_NO_FLASH && b.sensor.label_attempts == 7);
    CHECK(b.sensor.window.ceremony == CLAW_CLOSED);
}

static void only_a_stored_key_ends_the_labels_wait(void)
{
    blob m1 = from_page("Label", "M1"), m3 = from_page("Label", "M3"), m5 = from_page("Label", "M5");
    bench_start(&b, LABEL);
    claw_button(&b.sensor, 0);
    b.sensor.label_attempts = 6;
    b.random = 0x80;
    bench_say(&b, &m1, 0);
    CHECK(bench_say(&b, &m3, 0).bytes[0] == CLAW_M4);
    CHECK(b.sensor.label_attempts == 7 && b.sensor.window.label_ready_ms == 4000);
    b.save_fails = true;
    CHECK(is_refuse(bench_say(&b, &m5, 0)) && b.sensor.label_attempts == 7);
    b.save_fails = false;
    b.random = 0x80;
    bench_say(&b, &m1, 4000);
    bench_say(&b, &m3, 4000);
    CHECK(bench_say(&b, &m5, 4000).bytes[0] == CLAW_M6);
    CHECK(b.sensor.label_attempts == 0 && b.sensor.window.label_ready_ms == 4000);
    CHECK(bench_power_cycle(&b, 0) == CLAW_OK && b.sensor.label_attempts == 0);
}

static void a_person_learns_why_it_failed(void)
{
    blob m1 = from_page("Label", "M1"), m3 = from_page("Label", "M3"), refuse = from_hex("1fa0");
    bench_start(&b, LABEL);
    for (int i = 0; i < 5; i++) {
        static const claw_failure wanted[] = {CLAW_WRONG_CODE, CLAW_REFUSED, CLAW_TIME_OVER, CLAW_CANCELLED, CLAW_BROKEN_RULES};
        uint64_t now_ms = 100000u * (unsigned)i;
        claw_button(&b.sensor, now_ms);
        CHECK(bench_say(&b, &m1, now_ms).bytes[0] == CLAW_M2);
        switch (i) {
        case 0: bench_say(&b, &m3, now_ms); break;
        case 1: bench_say(&b, &refuse, now_ms); break;
        case 2: claw_poll(&b.sensor, now_ms + 10000); break;
        case 3: claw_button(&b.sensor, now_ms); break;
        default: m1.bytes[20] ^= 1, bench_say(&b, &m1, now_ms);
        }
        CHECK(b.events[CLAW_PAIRING_FAILED] == (uint32_t)i + 1 && b.last_value[CLAW_PAIRING_FAILED] == (uint32_t)wanted[i]);
    }
}

static void what_it_shows_of_itself(void)
{
    blob pairing_id = from_page("Label", "pairing id");
    bench_start(&b, LABEL);
    CHECK(claw_look(&b.sensor, 0).gateway == NULL);
    bench_pair(&b, "Label", 0);
    claw_state state = claw_look(&b.sensor, 0);
    uint8_t id[8];
    for (size_t i = 0; i < 8; i++) {
        id[i] = (uint8_t)(state.pairing_id >> (56 - 8 * i));
    }
    CHECK_SAME(id, sizeof id, pairing_id);
    CHECK(strcmp(state.gateway, "shed") == 0 && !state.connected && state.window == 0);
    CHECK(bench_power_cycle(&b, 0) == CLAW_OK && claw_look(&b.sensor, 0).pairing_id == state.pairing_id);
}

/* Every cut and every flipped bit of M1, every fifth of M3 and M5: an answer, a Refuse or silence, never a pairing. */
static void nothing_damaged_pairs(void)
{
    static blob good[3];
    good[0] = from_page("Label", "M1");
    good[1] = from_page("Label", "M3");
    good[2] = from_page("Label", "M5");
    for (size_t damaged = 0; damaged < 3; damaged++) {
        size_t bits = good[damaged].size * 8, cases = bits + good[damaged].size;
        for (size_t n = 0; n < cases; n += damaged == 0 ? 1 : 5) {
            bench_start(&b, LABEL);
            claw_button(&b.sensor, 0);
            b.random = 0x80;
            for (size_t i = 0; i < 3; i++) {
                blob message = good[i];
                if (i == damaged && n < bits) {
                    message.bytes[n / 8] ^= (uint8_t)(1u << n % 8);
                } else if (i == damaged) {
                    message.size = n - bits;
                }
                if (message.size > 0) {
                    bench_say(&b, &message, 0);
                }
            }
            CHECK(!claw_is_paired(&b.sensor));
        }
    }
}

static void damaged_flash_is_told_and_only_a_reset_helps(void)
{
    bench_start(&b, LABEL);
    bench_pair(&b, "Label", 0);
    b.flash[40] ^= 1;
    CHECK(bench_power_cycle(&b, 0) == CLAW_BAD_FLASH);
    CHECK(claw_button(&b.sensor, 0) == CLAW_BAD_FLASH);
    CHECK(claw_poll(&b.sensor, 0) == UINT64_MAX);
    CHECK(claw_factory_reset(&b.sensor, 0) == CLAW_OK);
    CHECK(!claw_is_paired(&b.sensor) && claw_button(&b.sensor, 0) == CLAW_OK);
}

/* The page's unit does both suites and takes 2048 bytes; this one does suite 1 and takes 256. */
static void an_ident_is_that_of_the_page(void)
{
    blob probe = from_line("Frames", "Probe"), unpaired = from_line("Discovery", "Ident"), paired = from_line("Discovery", "paired"), ident;
    bench_start(&b, LABEL);
    b.unit.device_id = "th-kit-7f3a";
    bench_power_cycle(&b, 0);
    claw_button(&b.sensor, 48000);
    b.sensor.window.id = 0xdeadbeef;
    ident = bench_say(&b, &probe, 96000);
    CHECK(ident.size + 1 == unpaired.size && memcmp(ident.bytes, unpaired.bytes, 28) == 0);
    CHECK(memcmp(ident.bytes + ident.size - 14, unpaired.bytes + unpaired.size - 14, 14) == 0);

    bench_start(&b, LABEL);
    b.sensor.slots[CLAW_CURRENT].present = true;
    memset(b.sensor.slots[CLAW_CURRENT].advertising_key, 7, 32);
    b.random = 1;
    ident = bench_say(&b, &probe, 0);
    CHECK(ident.size + 1 == paired.size && memcmp(ident.bytes, paired.bytes, 16) == 0);
}

static void identify_blinks_at_most_every_ten_seconds(void)
{
    blob identify = from_line("Discovery", "Identify");
    bench_start(&b, LABEL);
    bench_say(&b, &identify, 0);
    bench_say(&b, &identify, 9999);
    CHECK(b.events[CLAW_BLINK] == 1 && b.last_value[CLAW_BLINK] == 10);
    bench_say(&b, &identify, 10000);
    CHECK(b.events[CLAW_BLINK] == 2);
}

void test_pairing(void)
{
    both_ceremonies_give_the_bytes_of_the_page();
    a_certificate_goes_to_the_gateway_in_m4_and_nothing_else_changes();
    a_repeated_message_gets_identical_bytes_and_an_older_one_nothing();
    a_closed_window_is_silent();
    another_ceremony_version_or_suite_is_refused();
    a_wrong_label_tag_is_counted_before_it_is_judged_and_then_waits();
    an_attempt_that_cannot_be_counted_is_not_judged();
    an_entered_code_is_forgotten_after_three_unanswered_tags();
    a_second_different_message_ends_the_run();
    a_store_that_fails_leaves_the_keys_as_they_were();
    a_button_that_the_flash_refuses_keeps_the_count();
    only_a_stored_key_ends_the_labels_wait();
    a_person_learns_why_it_failed();
    what_it_shows_of_itself();
    nothing_damaged_pairs();
    damaged_flash_is_told_and_only_a_reset_helps();
    an_ident_is_that_of_the_page();
    identify_blinks_at_most_every_ten_seconds();
}
