/* Sizes that a build may choose, and those that the protocol sets. */
#ifndef CLAWGATE_LIMITS_H
#define CLAWGATE_LIMITS_H

/* The longest message that this sensor takes and sends: 256 to 4096 bytes. RAM is about twice this and 1.7 kB. */
#ifndef CLAW_MESSAGE_MAX
#define CLAW_MESSAGE_MAX 512
#endif

#if CLAW_MESSAGE_MAX < 256 || CLAW_MESSAGE_MAX > 4096
#error "CLAW_MESSAGE_MAX must be 256 to 4096"
#endif

/* With CLAW_SUITE2 the sensor also does suite 2, whose M3 and M4 carry ML-KEM-768's key and ciphertext. */
#if defined(CLAW_SUITE2) && CLAW_MESSAGE_MAX < 1536
#error "suite 2 needs a CLAW_MESSAGE_MAX of at least 1536"
#endif

/* The longest device certificate that goes to the gateway in M4, 0 to 480 bytes. RAM is as much more. */
#ifndef CLAW_CERTIFICATE_MAX
#define CLAW_CERTIFICATE_MAX 0
#endif

#if CLAW_CERTIFICATE_MAX < 0 || CLAW_CERTIFICATE_MAX > 480
#error "CLAW_CERTIFICATE_MAX must be 0 to 480"
#endif

#define CLAW_ID_MAX 32           /* device id, gateway id: a-z 0-9 _ - */
#define CLAW_NAME_MAX 32         /* name, firmware version: bytes of UTF-8 */
#define CLAW_CAPABILITIES_MAX 80 /* "name:unit,name:unit": M4 then fits into 256 bytes */
#define CLAW_WINDOW_S 300        /* a pairing window */
#define CLAW_BLINK_MAX_S 60
#define CLAW_FLASH_SIZE 397      /* what a sensor keeps over a power cut */

typedef struct claw_sensor claw_sensor;

#endif
