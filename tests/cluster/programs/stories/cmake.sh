#: what    cmake with ninja: configure, build, nothing to do, one file, ctest, install
#: needs   cmake ninja g++
mkdir -p project/src && cd project
for i in 1 2 3 4 5 6; do printf 'int f%s() { return %s; }\n' "$i" "$i" > "src/f$i.cpp"; done
printf 'int f1(); int f6();\nint main() { return f1() + f6() - 7; }\n' > src/main.cpp
cat > CMakeLists.txt <<'M'
cmake_minimum_required(VERSION 3.16)
project(demo CXX)
file(GLOB F CONFIGURE_DEPENDS src/f*.cpp)
add_library(f STATIC ${F})
add_executable(demo src/main.cpp)
target_link_libraries(demo f)
enable_testing()
add_test(NAME runs COMMAND demo)
install(TARGETS demo DESTINATION bin)
M
cmake -G Ninja -S . -B build -DCMAKE_INSTALL_PREFIX="$PWD/out" > /dev/null && ninja -C build | tail -1 | sed 's/^.*] //'
ninja -C build | tail -1 && ninja -C build -d explain -n 2>&1 | tail -1 && sleep 0.02 && touch src/f3.cpp && ninja -C build | tail -n +2 | wc -l && ninja -C build | tail -1
(cd build && ctest 2>&1 | grep 'tests passed') && cmake --install build > /dev/null && ./out/bin/demo && find out -type f
printf 'int f7() { return 7; }\n' > src/f7.cpp && ninja -C build > /dev/null && ar t build/libf.a | wc -l && ninja -C build -t clean > /dev/null && ls build | grep -c '\.a$' || true
