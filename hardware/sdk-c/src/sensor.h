/* What the parts of a sensor use of each other. */
#ifndef CLAW_SENSOR_H
#define CLAW_SENSOR_H

#include "cbor.h"
#include "clawgate.h"

#define CLAW_VERSION 1
#ifdef CLAW_SUITE2
#define CLAW_SUITES {1, 2}
#else
#define CLAW_SUITES {1}
#endif

enum {
    CLAW_PROBE = 0x01,
    CLAW_IDENT = 0x02,
    CLAW_IDENTIFY = 0x03,
    CLAW_M1 = 0x11,
    CLAW_M2 = 0x12,
    CLAW_M3 = 0x13,
    CLAW_M4 = 0x14,
    CLAW_M5 = 0x15,
    CLAW_M6 = 0x16,
    CLAW_REFUSE = 0x1f,
    CLAW_HANDSHAKE1 = 0x21,
    CLAW_HANDSHAKE2 = 0x22,
    CLAW_RECORD = 0x23,
};

/* The suites that it offers: those of the build, as far as the unit is to do them. */
claw_slice claw_suites(const claw_sensor *sensor);
bool claw_random(claw_sensor *sensor, void *out, size_t size);
void claw_tell(claw_sensor *sensor, claw_event event, uint32_t value);
/* Sends the message that lies in the outbox. False: the line has no room. On BLE it is always taken: what does not go at
 * once follows; another message replaces it, and the gateway then discards what it has of it. */
bool claw_send(claw_sensor *sensor, size_t size);
/* Sends what is left of it. Gives whether nothing is left. */
bool claw_send_rest(claw_sensor *sensor);
void claw_refuse(claw_sensor *sensor);
/* Forgets both keys and the static key, in flash first. The live session stays. Not CLAW_OK: nothing was changed. */
claw_status claw_forget(claw_sensor *sensor);
#define CLAW_ROTATING_ID_SIZE 8
/* By this id whoever holds the pairing knows the unit; of two keys, each in turn. False: no randomness. */
bool claw_rotating_id(claw_sensor *sensor, bool on_air, uint8_t id[CLAW_ROTATING_ID_SIZE]);
/* Ends the run of pairing; if it was before M6, it failed. */
void claw_pairing_end(claw_sensor *sensor, bool refuse, claw_failure why);
/* Blinks, if it did not in the last ten seconds. */
bool claw_blink(claw_sensor *sensor, uint64_t seconds, uint64_t now_ms);
/* lv(`sensor` || device id) || lv(`gateway` || gateway id) || lv(`uart` or `ble`), and how long that is. */
size_t claw_names_size(const claw_sensor *sensor, const char *gateway_id);
void claw_hash_names(crypto_sha512_ctx *hash, const claw_sensor *sensor, const char *gateway_id);

static inline uint64_t claw_earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

#endif
