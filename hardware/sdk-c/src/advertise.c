#include <string.h>

#include "sensor.h"

enum { PAIRED = 0x01, WINDOW = 0x02, FOR_ISSUED = 0x04 };

size_t claw_service_data(claw_sensor *sensor, uint8_t out[CLAW_SERVICE_DATA_MAX], uint64_t now_ms)
{
    claw_state state = claw_look(sensor, now_ms);
    size_t used = 0;
    if (sensor->status != CLAW_OK) {
        return 0;
    }
    out[used++] = (uint8_t)(CLAW_VERSION << 4 | (state.gateway != NULL ? PAIRED : 0) |
                            (state.window != CLAW_CLOSED ? WINDOW : 0) | (state.window == CLAW_ISSUED ? FOR_ISSUED : 0));
    if (state.window != CLAW_CLOSED) {
        uint8_t digest[CLAW_HASH_SIZE];
        crypto_sha512(digest, (const uint8_t *)sensor->unit.device_id, strlen(sensor->unit.device_id));
        out[used++] = digest[0];
        out[used++] = digest[1];
        out[used++] = (uint8_t)sensor->window.id;
        out[used++] = (uint8_t)((state.window_s + 1) / 2);
    }
    if (state.gateway != NULL) {
        if (!claw_rotating_id(sensor, true, out + used)) {
            return 0;
        }
        used += CLAW_ROTATING_ID_SIZE;
    }
    return used;
}
