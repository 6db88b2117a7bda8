/* Key slots, and what a sensor keeps in its flash. */
#ifndef CLAW_SLOT_H
#define CLAW_SLOT_H

#include "clawgate_limits.h"
#include "crypto.h"

enum { CLAW_CURRENT, CLAW_PENDING, CLAW_SLOTS };

/* What this side keeps of one pairing. */
typedef struct {
    bool present;
    uint8_t psk[CLAW_KEY_SIZE];
    uint8_t key_id_key[CLAW_KEY_SIZE];
    uint8_t key_id[8];
    uint8_t pairing_id[8];
    uint8_t advertising_key[CLAW_KEY_SIZE];
    uint8_t gateway_static[CLAW_KEY_SIZE];
    char gateway_id[CLAW_ID_MAX + 1];
} claw_slot;

/* Stores the sensor's lasting state as it is now. */
bool claw_flash_save(claw_sensor *sensor);
/* Stores that of a unit which was never paired, with this static key. */
bool claw_flash_save_new(claw_sensor *sensor, const uint8_t static_secret[CLAW_KEY_SIZE]);
/* Takes it from CLAW_FLASH_SIZE stored bytes. False: damaged. */
bool claw_flash_load(claw_sensor *sensor, const uint8_t *flash);

#endif
