/* The inside of a claw_sensor. Here only so that its size is known: nothing in it is for the application. */
#ifndef CLAWGATE_STATE_H
#define CLAWGATE_STATE_H

#include "../src/frame.h"
#include "../src/pairing.h"
#include "../src/session.h"
#include "../src/slot.h"
#include "../src/telemetry.h"
#include "../src/window.h"

struct claw_sensor {
    claw_board board;
    claw_unit unit;
    uint16_t value_max;
    claw_status status; /* CLAW_OK: it runs */

    uint8_t static_secret[CLAW_KEY_SIZE]; /* these three are what the flash holds */
    uint32_t label_attempts;
    claw_slot slots[CLAW_SLOTS];
    uint8_t static_public[CLAW_KEY_SIZE];

    claw_window window;
    claw_run run;
    claw_sessions sessions;
    claw_telemetry telemetry;

    bool show_pending[2];       /* which slot the last rotating id was of: of an Ident, of an advertisement */
    uint64_t identify_again_ms; /* blinks at most once in ten seconds */

    claw_inbox inbox;
    claw_outbox outbox;
    size_t rest_at; /* BLE: what of the message in the outbox is still to be sent */
    size_t rest_size;
    uint8_t rest_index;
};

#endif
