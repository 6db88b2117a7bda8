/* clawgate: the sensor's side of pairing, sessions and telemetry, in portable C99 without malloc.
 *
 * A board gives four functions (claw_board) and a description of the unit (claw_unit). The application calls
 * claw_receive() with what the line brings and claw_poll() when that time has come; everything else happens inside.
 * Nothing blocks, nothing is global: a claw_sensor is a variable of the caller. Not for use from an interrupt: put
 * received bytes into a ring there and hand them over in the main loop.
 *
 * All times are milliseconds of one monotonic clock that starts at power-on. The protocol: docs/protocol.md. */
#ifndef CLAWGATE_H
#define CLAWGATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clawgate_limits.h"

typedef enum { CLAW_UART, CLAW_BLE } claw_link;

typedef enum {
    CLAW_OK = 0,
    CLAW_BAD_UNIT,    /* the description breaks a limit, or its label code is mistyped */
    CLAW_BAD_FLASH,   /* what is stored is damaged: a person must reset the unit (claw_factory_reset) */
    CLAW_NO_RANDOM,   /* no true randomness: the unit neither pairs nor runs */
    CLAW_NO_FLASH,    /* the store failed: nothing was changed */
    CLAW_BAD_CODE,    /* a code with a wrong length, symbol or check symbol: nothing was opened */
    CLAW_NO_LABEL,    /* this unit has no label code */
    CLAW_BAD_READING, /* no value, one that is not finite, or too long for one record or for the queue */
} claw_status;

typedef enum {
    CLAW_WINDOW_OPEN,    /* value: seconds */
    CLAW_WINDOW_CLOSED,
    CLAW_PAIRED,         /* the new key is stored; value: bytes of settings that came with it */
    CLAW_KEY_PROVEN,     /* the first record under the new key came: the old key is gone */
    CLAW_PAIRING_FAILED, /* a run ended; value: a claw_failure */
    CLAW_SESSION,        /* a session is live */
    CLAW_SESSION_ENDED,
    CLAW_CLOCK_SET,
    CLAW_BLINK,          /* value: seconds; show which unit this is */
    CLAW_UNPAIRED,       /* the gateway erased the keys */
    CLAW_DROPPED,        /* value: readings that just gave way to a new one, since memory is full */
} claw_event;

/* Why a run of pairing ended, for a person at the unit. The gateway is never told. */
typedef enum {
    CLAW_BROKEN_RULES,     /* a message that cannot be, from a faulty gateway or from somebody between */
    CLAW_WRONG_CODE,       /* the two codes differ, or somebody between guessed: check the code, open the window again */
    CLAW_REFUSED,          /* the gateway gave up; with an entered code, mostly because it was another one */
    CLAW_TIME_OVER,        /* ten seconds, or the window's time: try again */
    CLAW_CANCELLED,        /* a person at the unit opened another window or reset it */
    CLAW_NOT_STORED,       /* the flash failed */
    CLAW_NOTHING_RANDOM,   /* the random source failed */
} claw_failure;

/* What the board does for the SDK. `context` is passed through. */
typedef struct {
    void *context;
    /* True random bytes, or false. */
    bool (*random)(void *context, uint8_t *out, size_t size);
    /* Stores these CLAW_FLASH_SIZE bytes so that a power cut leaves the old or the new ones, and gives true when
     * they are there to stay. */
    bool (*save)(void *context, const uint8_t *bytes, size_t size);
    /* Sends a frame (UART: raw bytes; BLE: one notification). Without room for all of it: sends nothing and gives
     * false; what matters is offered again. UART: room for one frame, CLAW_FRAME_MAX + 2 bytes, must be possible. */
    bool (*send)(void *context, const uint8_t *bytes, size_t size);
    /* Tells what happened. May be NULL. Must not call back into the SDK. */
    void (*event)(void *context, claw_event event, uint32_t value);
} claw_board;

/* What the unit is. The texts and the queue must stay where they are. */
typedef struct {
    const char *device_id;
    const char *name;
    const char *capabilities; /* "temperature:Cel,humidity:%RH" */
    const char *firmware;
    const char *label;        /* the label's code with its check symbol, or NULL: this unit takes entered codes only */
    claw_link link;
    uint8_t *queue;           /* memory for readings that are not yet safe at the gateway */
    size_t queue_size;
    const uint8_t *certificate; /* optional, in whatever form the gateway's owner asks for: at most CLAW_CERTIFICATE_MAX bytes */
    size_t certificate_size;
    uint8_t max_suite;        /* the highest suite it is to do; 0: the highest of the build */
} claw_unit;

/* One measured value of a reading. */
typedef struct {
    const char *name; /* "temperature" */
    const char *unit; /* SenML unit, "Cel"; or NULL */
    double value;
} claw_value;

#include "clawgate_state.h" /* the inside of a claw_sensor, so that the caller can place it */

/* Starts a sensor. `flash` is what save() stored last, or NULL if nothing was ever stored. After anything but
 * CLAW_OK the sensor stays silent; after CLAW_BAD_FLASH claw_factory_reset() brings it back. */
claw_status claw_start(claw_sensor *sensor, const claw_board *board, const claw_unit *unit, const uint8_t *flash,
                       uint64_t now_ms);

/* Bytes of the serial line, as they come; for BLE: one value that was written. */
void claw_receive(claw_sensor *sensor, const uint8_t *bytes, size_t size, uint64_t now_ms);

/* Does what is due, and sends what waits. Gives the time of the next call; call it earlier after claw_receive(),
 * after claw_report() and when the line has room again. */
uint64_t claw_poll(claw_sensor *sensor, uint64_t now_ms);

/* BLE: a gateway connected, the ATT MTU changed, or notifications were subscribed anew. `value_max` is the longest
 * notification, ATT MTU less 3. What was half sent or half received is dropped. */
void claw_connected(claw_sensor *sensor, uint16_t value_max);

/* BLE: the service data to advertise; gives its size. To be asked again when a window opens or closes, after a
 * connection, every 30 s while a window is open, every 5 s from a second pairing to the session that proves it, and at
 * least every 15 minutes: 0 means that there is no randomness. */
#define CLAW_SERVICE_DATA_MAX 13
size_t claw_service_data(claw_sensor *sensor, uint8_t out[CLAW_SERVICE_DATA_MAX], uint64_t now_ms);

/* The button was pressed: opens the label window. */
claw_status claw_button(claw_sensor *sensor, uint64_t now_ms);
/* A person entered a code, as typed: opens the issued window for it. */
claw_status claw_enter_code(claw_sensor *sensor, const char *code, uint64_t now_ms);
/* Erases both keys, the static key and all readings. */
claw_status claw_factory_reset(claw_sensor *sensor, uint64_t now_ms);
/* Ends the session in order, before a planned power-off. */
void claw_bye(claw_sensor *sensor);

/* Queues one reading taken now: all values in one SenML pack. When memory is full the oldest readings give way, and
 * the gateway is told. */
claw_status claw_report(claw_sensor *sensor, const claw_value *values, size_t count, uint64_t now_ms);

bool claw_is_paired(const claw_sensor *sensor);
/* Readings in memory that the gateway has not yet said to be safe. */
uint64_t claw_held(const claw_sensor *sensor);

/* How things stand, for a display or a service menu. */
typedef struct {
    const char *gateway;   /* id of the paired gateway, of the newest key; NULL when unpaired */
    uint64_t pairing_id;   /* names the pairing, the same number at the gateway */
    bool connected;        /* a session is live */
    bool clock_set;
    uint8_t window;        /* 0 closed, 1 for an entered code, 2 for the label's */
    uint32_t window_s;     /* until it closes */
    uint32_t label_attempts;
    uint64_t epoch, made;  /* the readings' epoch, and the number of the last one */
} claw_state;

claw_state claw_look(const claw_sensor *sensor, uint64_t now_ms);

#endif
