/* A libnvidia-ml.so.1 with two GPUs, small but true to NVML's ABI. GPU 1 has no utilisation, power or memory clock;
 * it falls off the bus once the file named by STUB_LOST exists. Functions that are not here are missing functions. */
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
