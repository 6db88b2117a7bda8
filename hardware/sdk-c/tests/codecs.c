/* Frames, fragments, CBOR and codes: the examples of docs/protocol.md, and what must be refused. */
#include <string.h>

#include "bench.h"
#include "cbor.h"
#include "code.h"

static size_t feed(claw_inbox *inbox, const uint8_t *bytes, size_t size)
{
    size_t message = 0;
    for (size_t i = 0; i < size; i++) {
        size_t now = claw_inbox_byte(inbox, bytes[i]);
        message = now > 0 ? now : message;
    }
    return message;
}

static void frames_are_those_of_the_page(void)
{
    static claw_outbox outbox;
    claw_inbox inbox = {.message = 0};
    blob probe = from_line("Frames", "Probe"), frame = from_line("Frames", "its frame"), cut = from_hex("00010ac001a101019d18cd567f00");
    size_t size;
    memcpy(outbox.message, probe.bytes, probe.size);
    const uint8_t *made = claw_outbox_frame(&outbox, probe.size, &size);
    CHECK_SAME(made, size, frame);
    CHECK(feed(&inbox, frame.bytes, frame.size) == probe.size);
    CHECK_SAME(inbox.bytes, probe.size, probe);
    CHECK(feed(&inbox, cut.bytes, cut.size) == 0);
    CHECK(claw_crc32(0, (const uint8_t *)"123456789", 9) == 0xcbf43926);
}

static void a_frame_of_any_size_comes_back_and_noise_is_dropped(void)
{
    static claw_outbox outbox;
    static claw_inbox inbox;
    uint32_t noise = 1;
    for (size_t size = 1; size <= CLAW_MESSAGE_MAX; size++) {
        for (int zeros = 0; zeros < 3; zeros++) {
            uint8_t message[CLAW_MESSAGE_MAX];
            for (size_t i = 0; i < size; i++) {
                message[i] = zeros == 0 ? 0x55 : zeros == 1 ? 0 : (uint8_t)(i * 7 % 5);
            }
            memcpy(outbox.message, message, size);
            size_t frame_size;
            const uint8_t *frame = claw_outbox_frame(&outbox, size, &frame_size);
            CHECK(feed(&inbox, frame, frame_size) == size && memcmp(inbox.bytes, message, size) == 0);
        }
        for (int i = 0; i < 1000; i++) {
            noise = noise * 1664525 + 1013904223;
            CHECK(claw_inbox_byte(&inbox, (uint8_t)(noise >> 24)) == 0);
        }
    }
}

static void fragments_are_those_of_the_page(void)
{
    claw_inbox inbox = {.message = 0};
    blob one = from_line("Fragments", "fragment 1"), two = from_line("Fragments", "fragment 2"), three = from_line("Fragments", "fragment 3");
    CHECK(claw_inbox_value(&inbox, one.bytes, one.size) == 0);
    CHECK(claw_inbox_value(&inbox, two.bytes, two.size) == 0);
    CHECK(claw_inbox_value(&inbox, three.bytes, three.size) == 45);
    for (uint8_t i = 0; i < 45; i++) {
        CHECK(inbox.bytes[i] == i);
    }
    CHECK(claw_inbox_value(&inbox, one.bytes, one.size) == 0);
    CHECK(claw_inbox_value(&inbox, three.bytes, three.size) == 0); /* a gap */
    CHECK(claw_inbox_value(&inbox, two.bytes, two.size) == 0);
    CHECK(claw_inbox_value(&inbox, three.bytes, three.size) == 0);
}

static bool is_refused(const char *hex)
{
    blob map = from_hex(hex);
    claw_reader reader = claw_read_from(map.bytes, map.size);
    claw_map walk = claw_get_map(&reader);
    for (int64_t key; claw_next_key(&walk, &key);) {
        claw_skip(&reader);
    }
    return !claw_read_all(&reader);
}

static void cbor_has_one_form(void)
{
    CHECK(!is_refused("a0"));
    CHECK(!is_refused("a30163616263 02 4101 20f4"));
    CHECK(!is_refused("a10181818181818180")); /* 8 deep with the map */
    CHECK(is_refused("a1018181818181818180"));
    CHECK(is_refused("bf0101ff"));           /* no end said */
    CHECK(is_refused("a201010102"));         /* twice */
    CHECK(is_refused("a202010101"));         /* not sorted */
    CHECK(is_refused("a1011801"));           /* longer than needed */
    CHECK(is_refused("a101190017"));
    CHECK(is_refused("a1180101"));
    CHECK(is_refused("a101f6"));             /* null */
    CHECK(is_refused("a101c101"));           /* a tag */
    CHECK(is_refused("a101f97c00"));         /* not finite */
    CHECK(is_refused("a1016180"));           /* not UTF-8 */
    CHECK(is_refused("a1010100"));           /* something behind the end */
    CHECK(is_refused("a1015bffffffffffffffff00")); /* a length that lies */
    CHECK(is_refused("a1019bffffffffffffffff00"));
    CHECK(is_refused("bbffffffffffffffff0000"));
}

static void a_code_is_read_as_people_type_it(void)
{
    uint8_t prs[CLAW_PRS_SIZE];
    CHECK(claw_code_parse("K7QF-3M9B", prs) && memcmp(prs, "K7QF3M9", 7) == 0);
    CHECK(claw_code_parse(" k7qf 3m9b", prs) && memcmp(prs, "K7QF3M9", 7) == 0);
    CHECK(!claw_code_parse("K7QF-3M8B", prs));
    CHECK(!claw_code_parse("K7QF-3M9", prs));
    CHECK(!claw_code_parse("K7QF-3M9BB", prs));
    CHECK(!claw_code_parse("U7QF-3M9B", prs));
    CHECK(!claw_code_parse("", prs));
}

void test_codecs(void)
{
    frames_are_those_of_the_page();
    a_frame_of_any_size_comes_back_and_noise_is_dropped();
    fragments_are_those_of_the_page();
    cbor_has_one_form();
    a_code_is_read_as_people_type_it();
}
