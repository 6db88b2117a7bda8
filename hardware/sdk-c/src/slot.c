#include <string.h>

#include "cbor.h"
#include "clawgate.h"

/* Layout: version, static secret, label attempts, two slots, CRC-32 over all before it. The CRC finds damage;
 * whoever can write the flash needs no forged one. */
#define LAYOUT 2
#define SLOT_SIZE (1 + 4 * CLAW_KEY_SIZE + 8 + 8 + 1 + CLAW_ID_MAX)
#define CRC_AT (1 + CLAW_KEY_SIZE + 4 + CLAW_SLOTS * SLOT_SIZE)

typedef char claw_flash_has_its_size[CRC_AT + 4 == CLAW_FLASH_SIZE ? 1 : -1];

static void put(uint8_t **at, const void *bytes, size_t size)
{
    memcpy(*at, bytes, size);
    *at += size;
}

static void get(const uint8_t **at, void *bytes, size_t size)
{
    memcpy(bytes, *at, size);
    *at += size;
}

static void put_u32(uint8_t *at, uint32_t value)
{
    for (size_t i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static bool save(claw_sensor *sensor, const uint8_t *static_secret, uint32_t label_attempts, const claw_slot *slots)
{
    uint8_t flash[CLAW_FLASH_SIZE] = {LAYOUT};
    uint8_t *at = flash + 1;
    put(&at, static_secret, CLAW_KEY_SIZE);
    put_u32(at, label_attempts);
    at += 4;
    for (size_t i = 0; i < CLAW_SLOTS && slots != NULL; i++) {
        const claw_slot *slot = &slots[i];
        uint8_t *next = at + SLOT_SIZE;
        if (slot->present) {
            *at++ = 1;
            put(&at, slot->psk, CLAW_KEY_SIZE);
            put(&at, slot->key_id_key, CLAW_KEY_SIZE);
            put(&at, slot->key_id, 8);
            put(&at, slot->pairing_id, 8);
            put(&at, slot->advertising_key, CLAW_KEY_SIZE);
            put(&at, slot->gateway_static, CLAW_KEY_SIZE);
            put(&at, slot->gateway_id, CLAW_ID_MAX + 1);
        }
        at = next;
    }
    put_u32(flash + CRC_AT, claw_crc32(0, flash, CRC_AT));
    bool saved = sensor->board.save(sensor->board.context, flash, sizeof flash);
    crypto_wipe(flash, sizeof flash);
    return saved;
}

bool claw_flash_save(claw_sensor *sensor)
{
    return save(sensor, sensor->static_secret, sensor->label_attempts, sensor->slots);
}

bool claw_flash_save_new(claw_sensor *sensor, const uint8_t static_secret[CLAW_KEY_SIZE])
{
    return save(sensor, static_secret, 0, NULL);
}

bool claw_flash_load(claw_sensor *sensor, const uint8_t *flash)
{
    if (flash[0] != LAYOUT || claw_crc32(0, flash, CRC_AT) != get_u32(flash + CRC_AT)) {
        return false;
    }
    const uint8_t *at = flash + 1;
    get(&at, sensor->static_secret, CLAW_KEY_SIZE);
    sensor->label_attempts = get_u32(at);
    at += 4;
    for (size_t i = 0; i < CLAW_SLOTS; i++) {
        claw_slot *slot = &sensor->slots[i];
        const uint8_t *next = at + SLOT_SIZE;
        slot->present = *at++ == 1;
        if (slot->present) {
            get(&at, slot->psk, CLAW_KEY_SIZE);
            get(&at, slot->key_id_key, CLAW_KEY_SIZE);
            get(&at, slot->key_id, 8);
            get(&at, slot->pairing_id, 8);
            get(&at, slot->advertising_key, CLAW_KEY_SIZE);
            get(&at, slot->gateway_static, CLAW_KEY_SIZE);
            get(&at, slot->gateway_id, CLAW_ID_MAX + 1);
            slot->gateway_id[CLAW_ID_MAX] = '\0';
        }
        at = next;
    }
    return true;
}
