import edu.anu.spice.SpiceArguments;
import edu.anu.spice.SpiceScorer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.Arrays;

/**
 * Runs SPICE 1.0 and writes its scores. SPICE's own -out goes through the JavaScript engine that Java lost with
 * version 15, and fails there when all the work is done; this takes the same scores from the same object.
 * Arguments: the file to write, then SPICE's own.
 */
public class SpiceToJson {
    public static void main(String[] arguments) throws Exception {
        String[] own = Arrays.copyOfRange(arguments, 1, arguments.length);
        // neither class lets others make one, as both were meant for their own main program alone
        var newArguments = SpiceArguments.class.getDeclaredConstructor(String[].class);
        newArguments.setAccessible(true);
        var newScorer = SpiceScorer.class.getDeclaredConstructor();
        newScorer.setAccessible(true);
        SpiceScorer scorer = newScorer.newInstance();
        scorer.scoreBatch(newArguments.newInstance((Object) own));
        Files.write(Paths.get(arguments[0]), scorer.stats.toJSONString().getBytes(StandardCharsets.UTF_8));
    }
}
