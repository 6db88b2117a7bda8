/* The pairing window: when a sensor takes M1, for which ceremony, under which code. And the label's back-off. */
#ifndef CLAW_WINDOW_H
#define CLAW_WINDOW_H

#include "clawgate.h"
#include "code.h"

typedef enum { CLAW_CLOSED = 0, CLAW_ISSUED = 1, CLAW_LABEL = 2 } claw_ceremony;

typedef struct {
    claw_ceremony ceremony;
    uint8_t prs[CLAW_PRS_SIZE];
    uint64_t until_ms;
    uint32_t id;
    uint8_t unanswered;       /* own tags in this issued window that no valid tag answered */
    uint64_t label_ready_ms;  /* label attempts wait until then */
} claw_window;

/* Opens a window, replacing an open one. */
claw_status claw_window_open(claw_sensor *sensor, claw_ceremony ceremony, const uint8_t prs[CLAW_PRS_SIZE],
                             uint32_t seconds, uint64_t now_ms);
claw_status claw_window_open_label(claw_sensor *sensor, uint32_t seconds, uint64_t now_ms);
void claw_window_close(claw_sensor *sensor);
/* Starts the wait that the count of label attempts asks for. */
void claw_window_wait(claw_sensor *sensor, uint64_t now_ms);

#endif
