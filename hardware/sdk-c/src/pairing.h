/* One run of pairing: M1 to M6, the sensor's side. */
#ifndef CLAW_PAIRING_H
#define CLAW_PAIRING_H

#include "clawgate_limits.h"
#include "crypto.h"
#include "kem.h"

/* The longest answer is M4: its part holds the static key, the capabilities, the firmware version and the certificate. */
#ifdef CLAW_SUITE2
#define CLAW_M4_KEM (1 + 3 + CLAW_KEM_CIPHERTEXT)
#else
#define CLAW_M4_KEM 0
#endif
#define CLAW_M4_CERTIFICATE (CLAW_CERTIFICATE_MAX > 0 ? 4 + CLAW_CERTIFICATE_MAX : 0)
#define CLAW_M4_PART_MAX (1 + 35 + 3 + CLAW_CAPABILITIES_MAX + 3 + CLAW_NAME_MAX + CLAW_M4_CERTIFICATE)
#define CLAW_M4_MAX (4 + 34 + CLAW_M4_KEM + 1 + 3 + CLAW_M4_PART_MAX + CLAW_TAG_SIZE)

/* An array of no size does not compile: M4 must fit into a message. */
typedef char claw_m4_fits[CLAW_M4_MAX <= CLAW_MESSAGE_MAX ? 1 : -1];

typedef enum { CLAW_RUN_NONE, CLAW_RUN_SENT_M2, CLAW_RUN_SENT_M4, CLAW_RUN_SENT_M6 } claw_run_stage;

typedef struct {
    claw_run_stage stage;
    uint8_t ceremony;
    uint8_t suite;
    uint8_t why;                           /* it fails, if it fails */
    uint64_t until_ms;
    char gateway_id[CLAW_ID_MAX + 1];
    uint8_t sid[32];                       /* gateway nonce, own nonce */
    uint8_t heard[3][32];                  /* hashes of M1, M3, M5 as taken */
    uint8_t sent[CLAW_M4_MAX];             /* the last answer, for a repetition */
    size_t sent_size;
    crypto_sha512_ctx transcript;          /* lv() of all messages so far, as sent */
    uint8_t scalar[CLAW_KEY_SIZE];         /* until M3 */
    uint8_t gateway_tag[CLAW_KEY_SIZE];    /* from M3 on: the Tb that is right, link, k5 */
    uint8_t link[CLAW_HASH_SIZE];
    uint8_t k5[CLAW_KEY_SIZE];
#ifdef CLAW_SUITE2
    uint8_t kem[CLAW_KEM_SECRET];
#endif
} claw_run;

/* M1, M3, M5 or Refuse. The message may be changed. */
void claw_pairing_take(claw_sensor *sensor, uint8_t *message, size_t size, uint64_t now_ms);

#endif
