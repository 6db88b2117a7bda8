/* The gateway's messages of pairing, as they are read. */
#ifndef CLAW_MESSAGE_H
#define CLAW_MESSAGE_H

#include "cbor.h"

#define CLAW_NONCE_SIZE 16
#define CLAW_SHARE_SIZE 32
#define CLAW_SETTINGS_MAX 64
#define CLAW_PART_MAX 640

typedef struct {
    uint64_t version;
    claw_slice suites;
    claw_slice gateway_id;
    uint64_t ceremony;
    const uint8_t *nonce;
} claw_m1;

typedef struct {
    const uint8_t *share;       /* Yb */
    const uint8_t *gateway_tag; /* Tb, or NULL */
    claw_slice kem_key;         /* suite 2 */
} claw_m3;

typedef struct {
    const uint8_t *gateway_tag; /* Tb, or NULL */
    claw_slice part;            /* with its tag */
    const uint8_t *mac;
} claw_m5;

typedef struct {
    const uint8_t *gateway_static;
    claw_slice settings;
} claw_m5_part;

/* Each gives false when the message is not in form, or a key that must be there is missing. */
bool claw_read_m1(claw_m1 *m1, const uint8_t *message, size_t size);
bool claw_read_m3(claw_m3 *m3, const uint8_t *message, size_t size);
bool claw_read_m5(claw_m5 *m5, const uint8_t *message, size_t size);
bool claw_read_m5_part(claw_m5_part *part, const uint8_t *text, size_t size);

/* 1 to 32 of a-z 0-9 _ - */
bool claw_is_id(const uint8_t *id, size_t size);

#endif
