/* The same unit on BLE: values of any length, a stack that takes few at a time, what it advertises. */
#include <string.h>

#include "bench.h"

static bench b;
static claw_inbox gateway;
static blob heard;
static size_t values, longest, takes; /* `takes`: so many values until the stack is full */

static bool notify(void *context, const uint8_t *value, size_t size)
{
    (void)context;
    if (takes == 0) {
        return false;
    }
    takes--;
    values++;
    longest = size > longest ? size : longest;
    size_t message = claw_inbox_value(&gateway, value, size);
    if (message > 0) {
        memcpy(heard.bytes, gateway.bytes, message);
        heard.size = message;
    }
    return true;
}

static void begin(uint16_t value_max)
{
    bench_start(&b, "K7QF-3M9B");
    b.sensor.unit.link = CLAW_BLE;
    b.sensor.board.send = notify;
    memset(&gateway, 0, sizeof gateway);
    takes = 1000;
    longest = values = 0;
    claw_connected(&b.sensor, value_max);
}

static blob say(const blob *message, size_t value_max, uint64_t now_ms)
{
    uint8_t value[512];
    size_t piece = value_max - 1;
    heard.size = 0;
    for (size_t at = 0, index = 0; at < message->size; at += piece, index++) {
        size_t size = message->size - at < piece ? message->size - at : piece;
        value[0] = (uint8_t)((at == 0 ? 0x80 : 0) | (at + size == message->size ? 0x40 : 0) | (index & 0x3f));
        memcpy(value + 1, message->bytes + at, size);
        claw_receive(&b.sensor, value, 1 + size, now_ms);
    }
    return heard;
}

/* M2 and an M4 of about 250 bytes, at each MTU from 23 to 517. */
static void every_mtu_carries_a_pairing(void)
{
    blob m1 = from_page("Label", "M1"), m3 = from_page("Label", "M3");
    static const char capabilities[] = "temperature:Cel,humidity:%RH,pressure:Pa,battery:V,light:lx,co2:ppm,noise:dBspl";
    for (uint16_t mtu = 23; mtu <= 517; mtu++) {
        uint16_t value_max = (uint16_t)(mtu - 3);
        begin(value_max);
        b.sensor.unit.capabilities = capabilities;
        CHECK(claw_button(&b.sensor, 0) == CLAW_OK);
        blob m2 = say(&m1, value_max, 0);
        CHECK(m2.size > 70 && m2.bytes[0] == CLAW_M2);
        CHECK(longest <= value_max && (m2.size < value_max || longest == value_max));
        b.sensor.run.ceremony = CLAW_ISSUED; /* no tag of the gateway to be right: only the way is tried here */
        m3.bytes[1] = 0xa1;
        m3.size = 37;
        blob m4 = say(&m3, value_max, 0);
        CHECK(m4.size > 150 && m4.bytes[0] == CLAW_M4 && m4.size == b.sensor.run.sent_size);
        CHECK(memcmp(m4.bytes, b.sensor.run.sent, m4.size) == 0);
        CHECK(longest <= value_max);
    }
}

static void a_stack_that_takes_few_values_gets_the_rest_later(void)
{
    blob m1 = from_page("Label", "M1"), m2 = from_page("Label", "M2");
    begin(20);
    claw_button(&b.sensor, 0);
    b.random = 0x80;
    takes = 2;
    CHECK(say(&m1, 20, 0).size == 0 && values == 2);
    for (uint64_t now_ms = 1; heard.size == 0 && now_ms < 50; now_ms++) {
        takes = 1;
        uint64_t next_ms = claw_poll(&b.sensor, now_ms);
        CHECK(heard.size > 0 || next_ms < now_ms + 10);
    }
    CHECK(values == (m2.size + 18) / 19 && heard.size == m2.size && heard.bytes[0] == CLAW_M2);
}

static void readings_do_not_disturb_what_is_half_sent(void)
{
    blob m1 = from_page("Label", "M1");
    claw_value value = {"t", "Cel", 1};
    begin(20);
    claw_button(&b.sensor, 0);
    takes = 2;
    say(&m1, 20, 0);
    for (int i = 0; i < 100; i++) {
        CHECK(claw_report(&b.sensor, &value, 1, 0) == CLAW_OK);
    }
    takes = 1000;
    claw_poll(&b.sensor, 1);
    CHECK(heard.size == b.sensor.run.sent_size && memcmp(heard.bytes, b.sensor.run.sent, heard.size) == 0);
}

static void a_new_connection_drops_what_was_half_there(void)
{
    blob m1 = from_page("Label", "M1");
    begin(20);
    claw_button(&b.sensor, 0);
    takes = 2;
    say(&m1, 20, 0);
    takes = 1000;
    claw_connected(&b.sensor, 100);
    claw_poll(&b.sensor, 1);
    CHECK(values == 2);
    claw_receive(&b.sensor, (const uint8_t *)"\x80\x11\xa5", 3, 2);
    claw_connected(&b.sensor, 100);
    CHECK(say(&m1, 100, 3).bytes[0] == CLAW_M2); /* the same M1 again: the run is still there */
}

static void it_advertises_as_the_page_says(void)
{
    uint8_t data[CLAW_SERVICE_DATA_MAX];
    blob closed = from_line("BLE", "closed"), pairable = from_line("BLE", "pairable");
    blob paired = from_line("BLE", "paired"), open = from_line("BLE", "paired, open");
    begin(20);
    b.sensor.unit.device_id = "th-kit-7f3a";
    CHECK_SAME(data, claw_service_data(&b.sensor, data, 0), closed);
    claw_button(&b.sensor, 0);
    b.sensor.window.id = 0xdeadbeef;
    CHECK_SAME(data, claw_service_data(&b.sensor, data, 0), pairable);
    b.sensor.slots[CLAW_CURRENT].present = true;
    memset(b.sensor.slots[CLAW_CURRENT].advertising_key, 7, 32);
    b.random = 1;
    CHECK_SAME(data, claw_service_data(&b.sensor, data, 0), open);
    b.sensor.window.ceremony = CLAW_CLOSED;
    b.random = 1;
    CHECK_SAME(data, claw_service_data(&b.sensor, data, 0), paired);
    claw_enter_code(&b.sensor, "K7QF-3M9B", 0);
    CHECK(claw_service_data(&b.sensor, data, 0) == 13 && data[0] == 0x17);
}

void test_ble(void)
{
    every_mtu_carries_a_pairing();
    a_stack_that_takes_few_values_gets_the_rest_later();
    readings_do_not_disturb_what_is_half_sent();
    a_new_connection_drops_what_was_half_there();
    it_advertises_as_the_page_says();
}
