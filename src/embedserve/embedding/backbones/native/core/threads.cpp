#include "threads.h"

#include <unistd.h>

namespace embedserve {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int kSpins = 4000;       // about 50 us on x86: longer than any wait between two stages
constexpr int kIdleSpins = 2000;   // a worker that has just finished expects more

}  // namespace

void Barrier::wait() {
  const unsigned round = round_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
    if (spins < kSpins) pause();
    else std::this_thread::yield();
}

struct Team::Shared {
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<unsigned> round{0};
  std::atomic<int> busy{0};
  std::atomic<bool> stop{false};
  const std::function<void(int)>* task = nullptr;
  std::vector<std::thread> threads;

  void serve(int rank) {
    for (unsigned seen = 0;;) {
      for (int spins = 0; spins < kIdleSpins && round.load(std::memory_order_acquire) == seen && !stop.load(); ++spins) pause();
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return stop.load() || round.load(std::memory_order_acquire) != seen; });
      }
      if (stop.load()) return;
      seen = round.load(std::memory_order_acquire);
      (*task)(rank);
      busy.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
};

Team::Team(int size) : size_(size < 1 ? 1 : size) {}

void Team::start() {
  if (shared_) shared_.release();  // a forked child: the threads of the parent do not exist here
  shared_.reset(new Shared);
  process_ = getpid();
  for (int rank = 1; rank < size_; ++rank) shared_->threads.emplace_back([shared = shared_.get(), rank] { shared->serve(rank); });
}

Team::~Team() {
  if (!shared_) return;
  if (process_ != getpid()) {
    shared_.release();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->stop.store(true);
  }
  shared_->wake.notify_all();
  for (std::thread& thread : shared_->threads) thread.join();
}

void Team::run(const std::function<void(int)>& task) {
  if (size_ == 1) return task(0);
  if (!shared_ || process_ != getpid()) start();
  Shared& shared = *shared_;
  {
    std::lock_guard<std::mutex> lock(shared.mutex);
    shared.task = &task;
    shared.busy.store(size_ - 1, std::memory_order_relaxed);
    shared.round.fetch_add(1, std::memory_order_release);
  }
  shared.wake.notify_all();
  task(0);
  for (int spins = 0; shared.busy.load(std::memory_order_acquire); ++spins)
    if (spins < kSpins) pause();
    else std::this_thread::yield();
}

}  // namespace embedserve
