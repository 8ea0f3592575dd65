// A fake of the part of CUDA's header that edgeres/help/device.cpp.txt uses, on the memory of the CPU.
#pragma once
#include <cstddef>
#include <cstdlib>

enum cudaError_t { cudaSuccess };
constexpr unsigned cudaMemAttachGlobal = 1;
using cudaStream_t = void*;
inline cudaError_t cudaMallocManaged(void** memory, std::size_t size, unsigned) {
    *memory = std::calloc(size, 1);
    return cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t*) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
