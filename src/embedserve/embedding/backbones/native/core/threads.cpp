#include "threads.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace embedserve {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// 50 to 200 us, by the generation of an x86: longer than most waits between two stages, for a barrier, for the others'
// last block, and for a worker that has just finished and expects more.
constexpr int kSpins = 4000;

inline void pause_or_yield(int spins) {
  if (spins < kSpins) pause();
  else std::this_thread::yield();
}

}  // namespace

void Barrier::abandon(std::exception_ptr failure) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!failure_) failure_ = std::move(failure);
  abandoned_.store(true, std::memory_order_release);
}

void Barrier::wait() {
  const unsigned round = round_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
    if (abandoned_.load(std::memory_order_acquire)) {
      std::lock_guard<std::mutex> lock(mutex_);
      std::rethrow_exception(failure_);
    }
    pause_or_yield(spins);
  }
}

// Work is offered, not handed out: a thread that the system does not run in time misses it, and the caller, who
// has to be running, does all of it. So a core that others keep busy slows a batch, but never holds it up.
struct Team::Shared {
  static constexpr uint64_t kRound = uint64_t{1} << 32, kClosed = uint64_t{1} << 31;

  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> door{kClosed};  // rounds * kRound + kClosed or not + how many have joined this round
  std::atomic<int> finished{0};
  std::atomic<bool> stop{false};
  const std::function<void(int)>* task = nullptr;
  std::exception_ptr failure;  // the first of this round
  std::vector<std::thread> threads;

  ~Shared() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop.store(true);
    }
    wake.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  static int joined(uint64_t door) { return static_cast<int>(door & (kClosed - 1)); }

  void open(const std::function<void(int)>& offered) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      task = &offered;
      failure = nullptr;
      finished.store(0, std::memory_order_relaxed);
      door.store((door.load(std::memory_order_relaxed) / kRound + 1) * kRound, std::memory_order_release);
    }
    wake.notify_all();
  }

  void perform(int rank) {
    try {
      (*task)(rank);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  // Waits for those who have joined; after this nobody touches the task.
  void close() {
    const int members = joined(door.fetch_or(kClosed, std::memory_order_acq_rel));
    for (int spins = 0; finished.load(std::memory_order_acquire) < members; ++spins) pause_or_yield(spins);
  }

  void serve(int rank) {
    for (uint64_t seen = 0;;) {
      const auto offered = [&] { return door.load(std::memory_order_acquire) / kRound != seen; };
      for (int spins = 0; spins < kSpins && !offered() && !stop.load(); ++spins) pause();
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return stop.load() || offered(); });
      }
      if (stop.load()) return;
      uint64_t state = door.load(std::memory_order_acquire);
      seen = state / kRound;
      while (!(state & kClosed) && state / kRound == seen)
        if (door.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
          perform(rank);
          finished.fetch_add(1, std::memory_order_acq_rel);
          break;
        }
    }
  }
};

Team::Team(int size) : size_(size < 1 ? 1 : size) {}

void Team::start() {
  if (shared_) shared_.release();  // a forked child: the threads of the parent do not exist here
  auto shared = std::make_unique<Shared>();
  for (int rank = 1; rank < size_; ++rank) shared->threads.emplace_back([to = shared.get(), rank] { to->serve(rank); });
  shared_ = std::move(shared);
  process_ = getpid();
}

Team::~Team() {
  if (shared_ && process_ != getpid()) shared_.release();
}

Team::Shared& Team::shared() {
  if (!shared_ || process_ != getpid()) start();
  return *shared_;
}

void Team::run(const std::function<void(int)>& task) {
  if (size_ == 1) return task(0);
  Shared& team = shared();
  team.open(task);
  team.perform(0);
  team.close();
  if (team.failure) std::rethrow_exception(team.failure);
}

void Team::share(int count, int chunk, const std::function<void(int, int, int)>& work) {
  std::atomic<int> next{0};
  run([&](int rank) {
    for (int begin; (begin = next.fetch_add(chunk)) < count;) work(begin, std::min(begin + chunk, count), rank);
  });
}

}  // namespace embedserve
