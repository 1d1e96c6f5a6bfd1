/* A libnvidia-ml.so.1 with two GPUs, small but true to NVML's ABI. GPU 1 has no utilisation, power or memory clock;
 * it falls off the bus once the file named by STUB_LOST exists. Functions that are not here are missing functions;
 * with RICH there are more: both cards are linked (with SWITCHED: to a switch) and in MIG mode, GPU 0 is at work and
 * hot, and GPU 1 has an XID. WITHOUT_MEMORY: GPU 1 does not tell how much it has. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, LOST = 15 };
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_t;

static int cards[2] = {0, 1};

static int state(int *card) {
    const char *path = getenv("STUB_LOST");
    return *card == 1 && path && access(path, F_OK) == 0 ? LOST : OK;
}

int nvmlInitWithFlags(unsigned int flags) { return OK; }
int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "stub error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned int size) { snprintf(text, size, "999.1"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13020; return OK; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, int **card) { *card = &cards[index]; return OK; }
int nvmlDeviceGetUUID(int *card, char *text, unsigned int size) { snprintf(text, size, "GPU-stub-%d", *card); return OK; }
int nvmlDeviceGetName(int *card, char *text, unsigned int size) { snprintf(text, size, "NVIDIA Stub-8GB"); return OK; }
int nvmlDeviceGetMemoryInfo(int *card, memory_t *memory) {
    *memory = (memory_t){8ull << 30, 6ull << 30, 2ull << 30};
#ifdef WITHOUT_MEMORY
    if (*card == 1) return NOT_SUPPORTED;
#endif
    return state(card);
}
int nvmlDeviceGetPciInfo_v3(int *card, pci_t *pci) {
    memset(pci, 0, sizeof *pci);
    snprintf(pci->busId, sizeof pci->busId, "00000000:0%d:00.0", *card + 1);
    return state(card);
}
int nvmlDeviceGetUtilizationRates(int *card, utilization_t *rates) {
    *rates = (utilization_t){0, 0};
    return *card == 1 ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetPowerUsage(int *card, unsigned int *milliwatt) {
    *milliwatt = 250000;
    return *card == 1 ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetTemperature(int *card, int sensor, unsigned int *celsius) { *celsius = 41; return state(card); }
int nvmlDeviceGetClockInfo(int *card, int kind, unsigned int *mhz) {
    *mhz = kind == 1 ? 1410 : 1593;
    return *card == 1 && kind == 2 ? NOT_SUPPORTED : OK;
}

#ifdef RICH
enum { TIMEOUT = 10, INSUFFICIENT_SIZE = 7 };
typedef struct { int *device; unsigned long long type, data; unsigned int gpu_instance, compute_instance; } event_t;
typedef struct { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, compute_instance; } process_t;

static int events, *watched[2];

int nvmlDeviceGetEnforcedPowerLimit(int *card, unsigned int *milliwatt) { *milliwatt = 400000; return OK; }
int nvmlDeviceGetCurrentClocksThrottleReasons(int *card, unsigned long long *mask) {
    *mask = *card == 0 ? 0x4 | 0x40 : 0;
    return OK;
}
int nvmlDeviceGetTotalEccErrors(int *card, int kind, int counter, unsigned long long *count) {
    *count = kind == 0 ? 3 : 0;
    return counter == 0 ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMigMode(int *card, unsigned int *current, unsigned int *pending) {
    *current = 1, *pending = 0;
    return OK;
}
int nvmlDeviceGetNvLinkState(int *card, unsigned int link, unsigned int *active) {
    *active = 1;
    return link < 2 ? OK : NOT_SUPPORTED;
}
#ifdef SWITCHED
int nvmlDeviceGetNvLinkRemoteDeviceType(int *card, unsigned int link, int *kind) { *kind = 2; return OK; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(int *card, unsigned int link, pci_t *pci) {
    memset(pci, 0, sizeof *pci);
    snprintf(pci->busId, sizeof pci->busId, "00000000:C4:00.0");
    return OK;
}
#else
int nvmlDeviceGetNvLinkRemotePciInfo_v2(int *card, unsigned int link, pci_t *pci) {
    return nvmlDeviceGetPciInfo_v3(&cards[1 - *card], pci);
}
#endif
int nvmlDeviceGetComputeRunningProcesses_v3(int *card, unsigned int *count, process_t *processes) {
    unsigned int room = *count;
    *count = *card == 0 ? 2 : 0;
    if (room < *count) return INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < *count; i++) processes[i] = (process_t){1000 + i, 1ull << 30, 0, 0};
    return OK;
}
int nvmlEventSetCreate(int **set) { *set = &events; return OK; }
int nvmlDeviceRegisterEvents(int *card, unsigned long long types, int *set) {
    watched[*card] = card;
    return types == 8 ? OK : NOT_SUPPORTED;
}
int nvmlEventSetWait_v2(int *set, event_t *event, unsigned int milliseconds) {
    if (watched[1] == NULL) {
        usleep(milliseconds * 1000);
        return TIMEOUT;
    }
    *event = (event_t){watched[1], 8, 79, 0, 0};
    watched[1] = NULL;
    return OK;
}
int nvmlEventSetFree(int *set) { return OK; }
#endif
