#include <string.h>

#include "sensor.h"

#define ATTEMPTS_AT_ONE_SECOND 5
#define WAIT_MAX_S 300

claw_status claw_window_open(claw_sensor *sensor, claw_ceremony ceremony, const uint8_t prs[CLAW_PRS_SIZE],
                             uint32_t seconds, uint64_t now_ms)
{
    claw_window *window = &sensor->window;
    uint32_t id;
    if (!claw_random(sensor, &id, sizeof id)) {
        return CLAW_NO_RANDOM;
    }
    claw_pairing_end(sensor, false, CLAW_CANCELLED);
    seconds = seconds > CLAW_WINDOW_S ? CLAW_WINDOW_S : seconds;
    window->ceremony = ceremony;
    memcpy(window->prs, prs, CLAW_PRS_SIZE);
    window->until_ms = now_ms + seconds * UINT64_C(1000);
    window->id = id;
    window->unanswered = 0;
    claw_tell(sensor, CLAW_WINDOW_OPEN, seconds);
    return CLAW_OK;
}

claw_status claw_window_open_label(claw_sensor *sensor, uint32_t seconds, uint64_t now_ms)
{
    uint8_t prs[CLAW_PRS_SIZE];
    if (sensor->unit.label == NULL || !claw_code_parse(sensor->unit.label, prs)) {
        return CLAW_NO_LABEL;
    }
    claw_status status = claw_window_open(sensor, CLAW_LABEL, prs, seconds, now_ms);
    crypto_wipe(prs, sizeof prs);
    return status;
}

void claw_window_close(claw_sensor *sensor)
{
    if (sensor->window.ceremony != CLAW_CLOSED) {
        sensor->window.ceremony = CLAW_CLOSED;
        crypto_wipe(sensor->window.prs, CLAW_PRS_SIZE);
        claw_tell(sensor, CLAW_WINDOW_CLOSED, 0);
    }
}

void claw_window_wait(claw_sensor *sensor, uint64_t now_ms)
{
    uint32_t attempts = sensor->label_attempts;
    uint32_t wait_s = attempts == 0 ? 0 : 1;
    for (uint32_t i = ATTEMPTS_AT_ONE_SECOND; i < attempts && wait_s < WAIT_MAX_S; i++) {
        wait_s *= 2;
    }
    wait_s = wait_s > WAIT_MAX_S ? WAIT_MAX_S : wait_s;
    sensor->window.label_ready_ms = now_ms + wait_s * UINT64_C(1000);
}
