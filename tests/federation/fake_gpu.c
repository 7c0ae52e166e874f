/* The CUDA calls by which PyTorch finds out how many GPUs there are, for tests on machines without one: one GPU,
 * unless CUDA_VISIBLE_DEVICES hides it. Nothing can be computed on it. Preloaded with LD_PRELOAD. */
#include <stdlib.h>

#define CUDA_ERROR_NO_DEVICE 100

int cudaGetDeviceCount(int *count)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    *count = visible == NULL || visible[0] != '\0';
    return *count ? 0 : CUDA_ERROR_NO_DEVICE;
}

int cudaGetDevice(int *device)
{
    *device = 0;
    return 0;
}

int cudaSetDevice(int device)
{
    return device;
}

int cudaGetLastError(void)
{
    return 0;
}
